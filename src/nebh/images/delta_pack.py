"""Delta packs: patches, and whole objects between them, in one zstd stream.

Inside the stream: [32 bytes SHA-256][u64 size][32 bytes SHA-256 of the base][u64 length][bytes] per object, integers big
endian. A base of zeros: the bytes are the object's own, and length is size. Else they are a patch (`images.delta`). Then
32 zero bytes and three fields of zeros but the last, the number of objects. Memory: a few MiB and one patch.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import zstandard

from nebh.images.delta import PATCH_LIMIT, TOGETHER
from nebh.images.pack import CHUNK, PackLimits, PackStream
from nebh.model.errors import BadInput

_HEAD: Final = struct.Struct(">32sQ32sQ")
_NONE: Final = bytes(32)


@dataclass(frozen=True)
class Packed:
    """An object of a delta pack: as a patch on `base`, or whole (`base` is "") with `chunks` to be read before the next
    one is asked for. Neither is checked here: whoever stores it hashes it."""

    digest: str
    size: int
    base: str = ""
    patch: bytes = b""
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))


@dataclass(frozen=True)
class Outgoing:
    """An object to send: whole through `read`, or as `patch` on `base`."""

    digest: str
    size: int
    base: str = ""
    patch: bytes = b""


def encode_delta_pack(
    objects: Iterable[Outgoing], read: Callable[[str], Iterable[bytes]], *, level: int = 3
) -> Iterator[bytes]:
    """Yield a delta pack. Raises BadInput when a whole object is not as long as it was said to be."""
    compressor = zstandard.ZstdCompressor(level=level, threads=0).compressobj()
    count = 0
    for one in objects:
        base = bytes.fromhex(one.base) if one.base else _NONE
        left = len(one.patch) if one.base else one.size
        yield from filter(None, (compressor.compress(_HEAD.pack(bytes.fromhex(one.digest), one.size, base, left)),))
        for chunk in (one.patch,) if one.base else read(one.digest):
            left -= len(chunk)
            yield from filter(None, (compressor.compress(chunk),))
        if left:
            raise BadInput(f"cannot pack object {one.digest}: its length is not {one.size}")
        count += 1
    yield compressor.compress(_HEAD.pack(_NONE, 0, _NONE, count)) + compressor.flush()


def decode_delta_pack(chunks: Iterable[bytes], *, limits: PackLimits | None = None) -> Iterator[Packed]:
    """Yield the objects of a delta pack that arrives as `chunks`. Raises BadInput when it is cut, is none, is over a
    limit, or goes on after its end."""
    bounds = limits or PackLimits()
    stream = PackStream(chunks)
    count = total = 0
    while True:
        digest, size, base, length = _HEAD.unpack(stream.exactly(_HEAD.size))
        if digest == _NONE:
            break
        count, total = count + 1, total + size
        if count > bounds.objects or size > bounds.object or total > bounds.bytes:
            raise BadInput(f"cannot read a delta pack: object {count} of {size} bytes is over a limit")
        if base == _NONE:
            if length != size:
                raise BadInput("cannot read a delta pack: a whole object has two lengths")
            content = _whole(stream, size)
            yield Packed(digest.hex(), size, chunks=content)
            for _ in content:
                pass
        else:
            if length > PATCH_LIMIT or size > TOGETHER:
                raise BadInput(f"cannot read a delta pack: a patch of {length} bytes is over the limit")
            yield Packed(digest.hex(), size, base=base.hex(), patch=stream.exactly(length))
    if size or base != _NONE or length != count:
        raise BadInput("cannot read a delta pack: its end mark does not fit what came before")
    stream.finish()


def _whole(stream: PackStream, size: int) -> Iterator[bytes]:
    left = size
    while left:
        chunk = stream.read(min(left, CHUNK))
        if not chunk:
            raise BadInput("cannot read a delta pack: it was cut inside an object")
        left -= len(chunk)
        yield chunk


def check_hash(chunks: Iterable[bytes], *, digest: str) -> bool:
    """Tell whether these are the bytes of `digest`."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest() == digest
