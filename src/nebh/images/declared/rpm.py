""".rpm files: the header's names of file capabilities, then a cpio archive. Scripts are in the header, and stay there."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nebh.images.intake import Intake, Item
from nebh.images.objects import CHUNK
from nebh.images.sources.streams import Hashed, Reader, Window, plain
from nebh.model.errors import BadInput
from nebh.model.image import LintRule

# RPM v4: a lead of 96 bytes, the header of signatures padded to 8, the header, the payload.
_LEAD: Final = 96
_LEAD_MAGIC: Final = b"\xed\xab\xee\xdb"
_HEADER: Final = struct.Struct(">4s4xII")
_HEADER_MAGIC: Final = b"\x8e\xad\xe8\x01"
_INDEX: Final = struct.Struct(">IIII")
_MOST_INDEX: Final = 1 << 16
_MOST_STORE: Final = 256 << 20
_STRINGS: Final = (6, 8)
_DIRECTORIES, _BASES, _NUMBERS, _FORMAT, _CAPABILITIES = 1118, 1117, 1116, 1124, 5010

_CPIO: Final = (b"070701", b"070702")
_CPIO_STRIPPED: Final = b"07070X"
_CPIO_FIELDS: Final = 13
_MOST_NAME: Final = 4096
_END: Final = b"TRAILER!!!"


@dataclass(frozen=True, kw_only=True)
class _Member:
    name: bytes
    inode: tuple[int, int, int]
    mode: int
    uid: int
    gid: int
    links: int
    size: int


def read_rpm(descriptor: int, intake: Intake) -> Iterator[Item]:
    """Yield the files of an .rpm (an open file). Raises BadInput for whatever is no rpm, or cannot be in an image."""
    capable, start = _read_headers(Window(descriptor), intake)
    payload = plain(Hashed(Window(descriptor, offset=start)), what=intake.what, limits=intake.limits)
    for item in _read_cpio(_Cpio(payload, intake), intake):
        if item.path in capable:
            intake.find(LintRule.FILE_CAPABILITY, item.path, "the file capability was dropped: there is none to gain")
        yield item


def _read_headers(file: Window, intake: Intake) -> tuple[frozenset[str], int]:
    """Return the paths with file capabilities, and where the payload begins."""
    lead = _exactly(file, _LEAD, intake)
    if not lead.startswith(_LEAD_MAGIC):
        raise _damaged(intake, "it does not begin as an .rpm does")
    _, signatures = _header(file, intake)
    _exactly(file, -signatures % 8, intake)
    tags, _ = _header(file, intake)
    if tags.get(_FORMAT, [b"cpio"]) != [b"cpio"]:
        raise _damaged(intake, "its payload is not cpio")
    folders, bases, capabilities = (tags.get(one, []) for one in (_DIRECTORIES, _BASES, _CAPABILITIES))
    found = set()
    for base, number, text in zip(bases, tags.get(_NUMBERS, []), capabilities, strict=False):
        place = int.from_bytes(number, "big")
        if text and place < len(folders):
            found.add((folders[place] + base).decode(errors="replace").strip("/"))
    return frozenset(found), file.position


def _header(file: Window, intake: Intake) -> tuple[dict[int, list[bytes]], int]:
    """Return a header's texts and 32-bit numbers by tag, those that are asked for alone, and its store's length."""
    magic, count, length = _HEADER.unpack(_exactly(file, _HEADER.size, intake))
    if magic != _HEADER_MAGIC or count > _MOST_INDEX or length > _MOST_STORE:
        raise _damaged(intake, "a header is not version 1, or too long")
    index = _exactly(file, count * _INDEX.size, intake)
    store = _exactly(file, length, intake)
    tags: dict[int, list[bytes]] = {}
    for tag, kind, offset, number in _INDEX.iter_unpack(index):
        if tag not in (_DIRECTORIES, _BASES, _NUMBERS, _FORMAT, _CAPABILITIES) or tag in tags:
            continue
        if offset > length or number > intake.limits.entries:
            raise _damaged(intake, f"tag {tag} leads outside its header")
        if kind in _STRINGS:
            tags[tag] = store[offset:].split(b"\0", number)[:number]
        elif kind == 4:
            tags[tag] = [store[offset + 4 * one : offset + 4 * one + 4] for one in range(number)]
    return tags, length


class _Cpio:
    """The members of a cpio archive of the format newc; after a member is yielded its `data()` may be read."""

    def __init__(self, stream: Reader, intake: Intake) -> None:
        self._stream, self._intake = stream, intake
        self._left = self._padding = 0

    def __iter__(self) -> Iterator[_Member]:
        while True:
            for _ in self.data():
                pass
            _exactly(self._stream, self._padding, self._intake)
            self._padding = 0
            member = self._member()
            if member.name == _END:
                return
            self._left, self._padding = member.size, -member.size % 4
            yield member

    def data(self) -> Iterator[bytes]:
        """Yield the content of the member that was yielded last."""
        while self._left:
            chunk = self._stream.read(min(self._left, CHUNK))
            if not chunk:
                raise _damaged(self._intake, "it is cut inside a file")
            self._left -= len(chunk)
            yield chunk

    def _member(self) -> _Member:
        magic = _exactly(self._stream, 6, self._intake)
        if magic == _CPIO_STRIPPED:
            raise self._intake.refuse("", "it holds files over 4 GiB", hint="such .rpm files are not read")
        if magic not in _CPIO:
            raise _damaged(self._intake, "its payload is no cpio archive of the format newc")
        text = _exactly(self._stream, 8 * _CPIO_FIELDS, self._intake)
        if text.strip(b"0123456789abcdefABCDEF"):
            raise _damaged(self._intake, "a header of its payload holds no numbers")
        inode, mode, uid, gid, links, _, size, major, minor, _, _, length, _ = (
            int(text[8 * one : 8 * one + 8], 16) for one in range(_CPIO_FIELDS)
        )
        if not 1 < length <= _MOST_NAME:
            raise _damaged(self._intake, "a name of its payload is too long")
        name = _exactly(self._stream, length, self._intake)
        _exactly(self._stream, -(6 + 8 * _CPIO_FIELDS + length) % 4, self._intake)
        if name[-1:] != b"\0" or b"\0" in name[:-1]:
            raise _damaged(self._intake, "a name of its payload does not end")
        where = (inode, major, minor)
        return _Member(name=name[:-1], inode=where, mode=mode, uid=uid, gid=gid, links=links, size=size)


def _read_cpio(cpio: _Cpio, intake: Intake) -> Iterator[Item]:
    # Of the names of one file only the last comes with its content.
    waiting: dict[tuple[int, int, int], list[tuple[str, int]]] = {}
    for member in cpio:
        path = intake.name(member.name)
        if not intake.is_kept(path):
            if stat.S_ISREG(member.mode) and member.size and member.inode in waiting:
                raise intake.refuse(path, "other files are hard links to this, which is left out of images")
            continue
        intake.owner(member.uid, member.gid)
        mode = stat.S_IMODE(member.mode)
        if stat.S_ISDIR(member.mode):
            yield intake.directory(path, mode=mode)
        elif stat.S_ISLNK(member.mode):
            if member.size > _MOST_NAME:
                raise intake.refuse(path, "the link's target is too long")
            yield intake.link(path, target=b"".join(cpio.data()))
        elif not stat.S_ISREG(member.mode):
            raise intake.refuse(path, "it is a device or a pipe", hint="only files, directories and links are read")
        elif member.links > 1 and not member.size:
            waiting.setdefault(member.inode, []).append((path, mode))
        else:
            yield intake.file(path, mode=mode, size=member.size, chunks=cpio.data())
            if member.links > 1:
                for other, _ in waiting.pop(member.inode, []):
                    yield Item(other, None, target=path)
    for names in waiting.values():
        for path, mode in names:
            yield intake.file(path, mode=mode, size=0, chunks=())


def _exactly(stream: Reader, size: int, intake: Intake) -> bytes:
    parts: list[bytes] = []
    while size:
        data = stream.read(min(size, CHUNK))
        if not data:
            raise _damaged(intake, "it is cut")
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _damaged(intake: Intake, problem: str) -> BadInput:
    return BadInput(f"cannot read {intake.what}: it is no sound .rpm: {problem}")
