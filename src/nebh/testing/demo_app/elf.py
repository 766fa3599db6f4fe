"""Which shared libraries an ELF file needs (64-bit little-endian)."""

from __future__ import annotations

import struct

_DYNAMIC, _LOAD = 2, 1
_NEEDED, _STRTAB = 1, 5


def is_elf(data: bytes) -> bool:
    """Tell whether these are the bytes of a 64-bit little-endian ELF file."""
    return data[:6] == b"\x7fELF\x02\x01"


def needed_libraries(data: bytes) -> tuple[str, ...]:
    """Return the DT_NEEDED names."""
    offset, size, count = (*struct.unpack_from("<Q", data, 0x20), *struct.unpack_from("<HH", data, 0x36))
    headers = [struct.unpack_from("<IIQQQQQQ", data, offset + index * size) for index in range(count)]
    loads = [(address, start, length) for kind, _, start, address, _, length, _, _ in headers if kind == _LOAD]
    entries = [
        struct.unpack_from("<qQ", data, start + at)
        for kind, _, start, _, _, length, _, _ in headers
        if kind == _DYNAMIC
        for at in range(0, length, 16)
    ]
    table = next((value for tag, value in entries if tag == _STRTAB), 0)
    base = next((start + table - address for address, start, length in loads if address <= table < address + length), 0)
    names = (base + value for tag, value in entries if tag == _NEEDED)
    return tuple(data[start : data.index(b"\0", start)].decode() for start in names)
