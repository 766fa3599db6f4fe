"""Patches: a new content said by what an old one holds already. Pure: bytes in, bytes out.

A patch is a row of segments, each for at most SEGMENT bytes of the new content: [u64 offset][u32 length] of a stretch of
the old content, [u32 length] of a zstd frame, the frame, which was made with that stretch as its dictionary. So making
and applying take a stretch, a segment and zstd's tables, whatever the contents' sizes: at most MEMORY, beside a patch.
A patch needs no trust: whoever applies one hashes what comes out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import zstandard

from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest

SEGMENT: Final = 1 << 20
STRETCH: Final = 3 * SEGMENT
TOGETHER: Final = 64 << 20
"""Old and new content together: what is larger travels whole."""
PATCH_LIMIT: Final = 16 << 20
MEMORY: Final = 64 << 20
"""Bytes that making or applying one patch takes at most, beside the patch."""

_HEAD: Final = struct.Struct(">QII")
_SAMPLE: Final = 48
_SAMPLES: Final = 4
# Small contents are worth the strongest search; large ones would take minutes with it.
_STRONG: Final = 256 << 10


class Bytes(Protocol):
    """bytes, or a mapped file."""

    def __len__(self) -> int:
        """Its length."""
        ...

    def __getitem__(self, part: slice, /) -> bytes:
        """A part of it."""
        ...

    def find(self, sub: bytes, start: int, end: int, /) -> int:
        """The first place of `sub`, -1 = none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a new content is said by: SHA-256 and size of an old one."""

    digest: str
    size: int


def make_patch(old: Bytes, new: Bytes) -> bytes:
    """Return a patch that makes `new` out of `old`. It may be as long as `new` where the two have little in common."""
    parts: list[bytes] = []
    drift = 0
    for start in range(0, len(new), SEGMENT):
        piece = new[start : start + SEGMENT]
        drift = _find_drift(old, piece, start=start, drift=drift)
        begin, end = _stretch(len(old), start + drift, len(piece))
        stretch = old[begin:end]
        frame = _compress(stretch, piece)
        parts += (_HEAD.pack(begin, len(stretch), len(frame)), frame)
    return b"".join(parts)


def apply_patch(read: Callable[[int, int], bytes], patch: bytes, *, size: int) -> Iterator[bytes]:
    """Yield the `size` bytes of the new content, SEGMENT at most at a time; `read(offset, length)` gives parts of the
    old one. Raises BadInput for what is no patch on it, before more than `size` bytes came."""
    place, left = 0, size
    view = memoryview(patch)
    while left:
        if len(view) - place < _HEAD.size:
            raise BadInput(f"cannot apply a patch: it ends {left} bytes before the content does")
        begin, length, held = _HEAD.unpack_from(view, place)
        place += _HEAD.size
        frame = bytes(view[place : place + held])
        place += held
        if length > STRETCH or len(frame) != held:
            raise BadInput("cannot apply a patch: it is cut, or wants more of the old content than a patch may")
        piece = _decompress(_read_stretch(read, begin, length), frame, limit=min(left, SEGMENT))
        left -= len(piece)
        yield piece
    if place != len(view):
        raise BadInput("cannot apply a patch: bytes follow its end")


def _read_stretch(read: Callable[[int, int], bytes], begin: int, length: int) -> bytes:
    data = read(begin, length) if length else b""
    if len(data) != length:
        raise BadInput("cannot apply a patch: the old content is shorter than it was")
    return data


def _find_drift(old: Bytes, piece: bytes, *, start: int, drift: int) -> int:
    """Return how much further ahead in `old` the piece stands than in the new content; `drift` where it is not found."""
    if len(old) <= STRETCH:
        return 0
    step = max(1, len(piece) // _SAMPLES)
    for offset in range(0, max(1, len(piece) - _SAMPLE), step):
        sample = piece[offset : offset + _SAMPLE]
        expected = start + drift + offset
        if len(sample) == _SAMPLE and old[expected : expected + _SAMPLE] == sample:
            return drift
    for offset in range(0, max(1, len(piece) - _SAMPLE), step):
        sample = piece[offset : offset + _SAMPLE]
        # A run of one byte is everywhere: it says nothing of where the piece came from.
        if len(sample) < _SAMPLE or len(set(sample)) < _SAMPLES:
            continue
        found = old.find(sample, max(0, start + drift + offset - SEGMENT), len(old))
        if found < 0:
            found = old.find(sample, 0, len(old))
        if found >= 0:
            return found - offset - start
    return drift


def _stretch(size: int, place: int, length: int) -> tuple[int, int]:
    """Return the part of an old content of `size` bytes around what should stand at `place`."""
    if size <= STRETCH:
        return 0, size
    margin = (STRETCH - length) // 2
    begin = min(max(0, place - margin), size - STRETCH)
    return begin, begin + STRETCH


def _compress(stretch: bytes, piece: bytes) -> bytes:
    window = max(10, (len(stretch) + len(piece)).bit_length())
    level = 19 if len(stretch) + len(piece) <= _STRONG else 9
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(piece), dict_size=len(stretch), window_log=window, write_content_size=1
    )
    if not stretch:
        return zstandard.ZstdCompressor(compression_params=parameters).compress(piece)
    held = zstandard.ZstdCompressionDict(stretch, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=held, compression_params=parameters).compress(piece)


def _decompress(stretch: bytes, frame: bytes, *, limit: int) -> bytes:
    try:
        # Asked before anything is made: the frame's own word decides how much memory is taken.
        size = zstandard.frame_content_size(frame)
        if not 0 < size <= limit:
            raise BadInput("cannot apply a patch: a segment is empty or longer than what is left")
        held = zstandard.ZstdCompressionDict(stretch, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if stretch else None
        if held is None:
            return zstandard.ZstdDecompressor(max_window_size=STRETCH * 2).decompress(frame, max_output_size=limit)
        reader = zstandard.ZstdDecompressor(dict_data=held, max_window_size=STRETCH * 2)
        return reader.decompress(frame, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise BadInput(f"cannot apply a patch: {error}") from error


def choose_bases(old: TreeManifest, new: TreeManifest, *, wanted: Collection[str]) -> dict[str, Base]:
    """Return, for those `wanted` contents of `new` that have one, the content of `old` they most likely came from: the
    one at the same path, else at the same path but for its numbers (`lib/x-1.2.so`). Both together <= TOGETHER."""
    at = {entry.path: entry for entry in _files(old)}
    like: dict[str, TreeEntry] = {}
    for entry in _files(old):
        like.setdefault(_without_numbers(entry.path), entry)
    found: dict[str, Base] = {}
    for entry in _files(new):
        if entry.sha256 not in wanted or entry.sha256 in found:
            continue
        base = at.get(entry.path) or like.get(_without_numbers(entry.path))
        if base is not None and base.sha256 != entry.sha256 and base.size + entry.size <= TOGETHER:
            found[entry.sha256] = Base(digest=base.sha256, size=base.size)
    return found


def _files(manifest: TreeManifest) -> Iterable[TreeEntry]:
    return (entry for entry in manifest.entries if entry.type is EntryType.FILE and entry.size)


def _without_numbers(path: str) -> str:
    return re.sub(r"[0-9]+(\.[0-9]+)*", "#", path)
