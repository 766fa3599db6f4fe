"""Objects on the move: many of them in one zstd stream, for uploads and downloads.

Inside the stream: [32 bytes SHA-256][u64 size, big endian][the bytes] per object, then 32 zero bytes and the u64 number
of objects, then nothing. The end mark makes a cut stream visible; every hash is checked, so a pack needs no trust.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Final, cast

import zstandard

from nebh.model.errors import BadInput
from nebh.model.names import is_digest
from nebh.model.quantities import render_size

HEAD: Final = struct.Struct(">32sQ")
CHUNK: Final = 1 << 20
_END: Final = bytes(32)
# What level 19 and below use; a stream that wants more memory than this is refused.
_WINDOW: Final = 8 << 20


@dataclass(frozen=True, kw_only=True)
class PackLimits:
    """objects: how many. object: plain bytes of one. bytes: plain bytes of all."""

    objects: int = 100_000
    object: int = 8 << 30
    bytes: int = 64 << 30


@dataclass(frozen=True)
class PackedObject:
    """One object of a pack. `chunks` yields its bytes, at most CHUNK at a time, and raises BadInput when they are cut
    short or have another hash; it is to be used before the next object is asked for."""

    digest: str
    size: int
    chunks: Iterator[bytes]


def encode_pack(
    objects: Iterable[tuple[str, int]], read: Callable[[str], Iterable[bytes]], *, level: int = 3
) -> Iterator[bytes]:
    """Yield a pack of `objects` (digest, size), whose bytes `read(digest)` yields, holding a few MiB at most. Raises
    BadInput when an object is not as long as it was said to be."""
    compressor = zstandard.ZstdCompressor(level=level, threads=0).compressobj()
    count = 0
    for digest, size in objects:
        yield from filter(None, (compressor.compress(HEAD.pack(bytes.fromhex(digest), size)),))
        left = size
        for chunk in read(digest):
            left -= len(chunk)
            yield from filter(None, (compressor.compress(chunk),))
        if left:
            raise BadInput(f"cannot pack object {digest}: its length is {size - left}, not {size}")
        count += 1
    yield compressor.compress(HEAD.pack(_END, count)) + compressor.flush()


def decode_pack(chunks: Iterable[bytes], *, limits: PackLimits | None = None) -> Iterator[PackedObject]:
    """Yield the objects of a pack that arrives as `chunks`, in bounded memory. Objects that are not read are checked
    all the same. Raises BadInput when the pack is cut, is not a pack, is over a limit, or goes on after its end."""
    bounds = limits or PackLimits()
    stream = PackStream(chunks)
    count = total = 0
    while True:
        digest, size = HEAD.unpack(stream.exactly(HEAD.size))
        if digest == _END:
            break
        count, total = count + 1, total + size
        if count > bounds.objects or size > bounds.object or total > bounds.bytes:
            raise BadInput(
                f"cannot read a pack: object {count} of {render_size(size)}, {render_size(total)} in all, is over the "
                f"limit of {bounds.objects} objects, {render_size(bounds.object)} each, {render_size(bounds.bytes)}"
            )
        content = _content(stream, digest.hex(), size)
        yield PackedObject(digest.hex(), size, content)
        for _ in content:
            pass
    if size != count:
        raise BadInput(f"cannot read a pack: it says it has {size} objects, {count} arrived")
    stream.finish()


def check_wanted(digest: str, size: int, *, wanted: dict[str, int]) -> None:
    """Raise BadInput unless an object that arrives is one that was asked for, of the size that was said."""
    if not is_digest(digest) or wanted.get(digest) != size:
        raise BadInput(f"cannot take object {digest[:80]} of {size} bytes: nobody asked for it")


def _content(stream: PackStream, digest: str, size: int) -> Iterator[bytes]:
    hasher, left = hashlib.sha256(), size
    while left:
        chunk = stream.read(min(left, CHUNK))
        if not chunk:
            raise BadInput(f"cannot read a pack: it was cut inside object {digest}, {left} bytes before its end")
        left -= len(chunk)
        hasher.update(chunk)
        if left == 0 and hasher.hexdigest() != digest:
            raise BadInput(f"cannot read a pack: the bytes of object {digest} have SHA-256 {hasher.hexdigest()}")
        yield chunk
    if size == 0 and hasher.hexdigest() != digest:
        raise BadInput(f"cannot read a pack: object {digest} is empty")


class PackStream:
    """The plain bytes of a compressed stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._source = _Source(chunks)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._reader = decompressor.stream_reader(cast("IO[bytes]", self._source), read_across_frames=False)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as error:
            raise BadInput(f"cannot read a pack: {error}") from error

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes."""
        data = bytearray()
        while len(data) < size:
            chunk = self.read(size - len(data))
            if not chunk:
                raise BadInput("cannot read a pack: it was cut before its end mark")
            data += chunk
        return bytes(data)

    def rest(self, size: int) -> Iterator[bytes]:
        """Yield the `size` bytes that are left, CHUNK at most at a time. Raises BadInput when they are fewer or more."""
        while size:
            chunk = self.read(min(size, CHUNK))
            if not chunk:
                raise BadInput(f"cannot read a stream: it was cut {size} bytes before its end")
            size -= len(chunk)
            yield chunk
        self.finish()

    def finish(self) -> None:
        """Raise BadInput unless the stream ends here, with no compressed bytes after it."""
        if self.read(1) or self._source.read(1):
            raise BadInput("cannot read a pack: bytes follow its end")


class _Source:
    """Chunks as a file to read from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._held = memoryview(chunk)
        part, self._held = self._held[:size], self._held[size:]
        return bytes(part)
