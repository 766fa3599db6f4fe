"""Files of a source as streams of plain bytes: windows, decompression, ratio, hashes. All reads are bounded."""

from __future__ import annotations

import hashlib
import lzma
import os
import zlib
from collections.abc import Callable
from typing import IO, Final, Protocol, cast

import zstandard

from nebh.images.report import ImportLimits
from nebh.model.errors import BadInput

BLOCK: Final = 1 << 16
_XZ_MEMORY: Final = 256 << 20
_ZSTD_WINDOW: Final = 128 << 20


class Reader(Protocol):
    """A stream: `read(n)` gives 1..n bytes, b"" at the end."""

    def read(self, size: int = ..., /) -> bytes: ...


class Window:
    """Part of an open file, read by position: the descriptor may be shared."""

    def __init__(self, descriptor: int, *, offset: int = 0, size: int | None = None) -> None:
        self.descriptor, self.offset = descriptor, offset
        self.size = os.fstat(descriptor).st_size - offset if size is None else size
        self.position = 0

    def read(self, size: int = BLOCK, /) -> bytes:
        """Return the next bytes."""
        data = os.pread(self.descriptor, min(size, self.size - self.position), self.offset + self.position)
        self.position += len(data)
        return data


class Hashed:
    """Passes a stream through and knows its SHA-256 and length so far."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._hasher = hashlib.sha256()
        self.count = 0

    def read(self, size: int = BLOCK, /) -> bytes:
        """Return the next bytes."""
        data = self._reader.read(size)
        self._hasher.update(data)
        self.count += len(data)
        return data

    @property
    def digest(self) -> str:
        """`sha256:` and the hex digest, as OCI writes it."""
        return "sha256:" + self._hasher.hexdigest()

    def drain(self) -> None:
        """Read to the end."""
        while self.read(BLOCK):
            pass


def plain(source: Hashed, *, what: str, limits: ImportLimits) -> Reader:
    """Return the plain bytes of `source`, whose compression (none, gzip, zstd, xz) its first bytes tell. Reading
    raises BadInput when it is cut, damaged, or a bomb."""
    start = b""
    while len(start) < 6 and (more := source.read(6 - len(start))):
        start += more
    again = _Again(start, source)
    inner: Reader
    if start.startswith(b"\x1f\x8b"):
        inner = _Members(again, what, make=_Gzip)
    elif start.startswith(b"\xfd7zXZ\x00"):
        inner = _Members(again, what, make=_Xz)
    elif start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50):
        zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        inner = zstd.stream_reader(cast("IO[bytes]", again), read_across_frames=True)
    elif start.startswith(b"BZh"):
        raise BadInput(f"cannot import {what}: bzip2 is not read", hint="compress it with gzip, zstd or xz")
    else:
        return again
    return _Bounded(inner, source, what, limits)


class _Again:
    """Gives bytes that were looked at once more."""

    def __init__(self, start: bytes, reader: Reader) -> None:
        self._start, self._reader = start, reader

    def read(self, size: int = BLOCK, /) -> bytes:
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._reader.read(BLOCK if size < 0 else size)


class _Bounded:
    """Watches the ratio, and says what is damaged."""

    def __init__(self, inner: Reader, source: Hashed, what: str, limits: ImportLimits) -> None:
        self._inner, self._source, self._what, self._limits = inner, source, what, limits
        self._count = 0
        # Content, and for each entry a header and its long names.
        self._most = limits.bytes + limits.entries * 4096 + (64 << 20)

    def read(self, size: int = BLOCK, /) -> bytes:
        try:
            data = self._inner.read(size)
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
            raise BadInput(f"cannot import {self._what}: the compressed data is damaged: {error}") from error
        self._count += len(data)
        limits = self._limits
        if self._count > limits.free and self._count > limits.ratio * self._source.count:
            raise BadInput(
                f"cannot import {self._what}: it unpacks to more than {limits.ratio} times its size",
                hint="a decompression bomb, or an image full of zeros; import the plain tar if you trust it",
            )
        if self._count > self._most:
            raise BadInput(f"cannot import {self._what}: it unpacks to more than {self._most} bytes")
        return data


class _Codec(Protocol):
    """One member of a compressed stream."""

    @property
    def eof(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...

    def decompress(self, data: bytes, most: int) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._inner.decompress(data, most)


class _Xz:
    def __init__(self) -> None:
        self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._inner.decompress(data, most)


class _Members:
    """A gzip or xz file: one or more members one after the other, zeros allowed after the last."""

    def __init__(self, source: Reader, what: str, *, make: Callable[[], _Codec]) -> None:
        self._source, self._what, self._make = source, what, make
        self._codec = make()
        self._held = b""

    def read(self, size: int = BLOCK, /) -> bytes:
        while True:
            if self._codec.eof and not self._next_member():
                return b""
            data = self._codec.decompress(self._held, size)
            self._held = self._codec.rest
            if data:
                return data
            if self._codec.eof or self._held:
                continue
            self._held = self._source.read(BLOCK)
            if not self._held:
                raise BadInput(f"cannot import {self._what}: the compressed data ends too early")

    def _next_member(self) -> bool:
        held = self._held.lstrip(b"\0")
        while not held:
            more = self._source.read(BLOCK)
            if not more:
                return False
            held = more.lstrip(b"\0")
        self._codec, self._held = self._make(), held
        return True
