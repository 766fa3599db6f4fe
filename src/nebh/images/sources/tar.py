"""Tar archives, read strictly and never unpacked: ustar, PAX and GNU long names. What two readers could understand in
two ways is refused, for then the image would not be what other tools show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from nebh.images.intake import Intake, Item
from nebh.images.manifest import KERNEL_DIRECTORIES
from nebh.images.objects import CHUNK
from nebh.images.sources.streams import Reader
from nebh.model.errors import BadInput

BLOCK: Final = 512
_MOST_EXTRA: Final = 1 << 20
_PAX_RECORD: Final = re.compile(rb"([1-9][0-9]{0,7}) ")
_XATTR: Final = (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
_ZEROS: Final = bytes(BLOCK)


class Kind(Enum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    HARD_LINK = "hard link"
    DEVICE = "device or pipe"


_KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.LINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.DEVICE,
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One entry as the archive has it. offset: where its data begins. attributes: names of extended attributes."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    offset: int
    link: bytes
    attributes: tuple[str, ...]


class TarReader:
    """Members of one archive. After a member is yielded its `data()` may be read; what is left of it is skipped."""

    def __init__(self, stream: Reader, *, what: str) -> None:
        self._stream, self._what = stream, what
        self._offset = 0
        self._left = 0
        self._padding = 0
        self._extra = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield the members. Raises BadInput for anything irregular, a missing end mark and bytes after it."""
        while True:
            header = self._block()
            if header == _ZEROS:
                self._check_end()
                return
            extra: dict[bytes, bytes] = {}
            self._extra = 0
            while (kind := header[156:157]) in (b"x", b"g", b"L", b"K"):
                self._read_extra(kind, header, extra)
                header = self._block()
            member = self._member(header, extra)
            self._left = member.size
            self._padding = -member.size % BLOCK
            yield member
            for _ in self.data():
                pass
            self._exactly(self._padding)

    def data(self) -> Iterator[bytes]:
        """Yield the content of the member that was yielded last."""
        while self._left:
            chunk = self._stream.read(min(self._left, CHUNK))
            if not chunk:
                raise self._error("it is cut inside a file")
            self._left -= len(chunk)
            self._offset += len(chunk)
            yield chunk

    def _error(self, problem: str, *, hint: str = "") -> BadInput:
        return BadInput(f"cannot import {self._what}: {problem} (at byte {self._offset} of the tar)", hint=hint)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._stream.read(size - len(data))
            if not chunk:
                raise self._error("the tar is cut, or this is no tar")
            data += chunk
        self._offset += size
        return data

    def _block(self) -> bytes:
        return self._exactly(BLOCK)

    def _check_end(self) -> None:
        while data := self._stream.read(CHUNK):
            if data.strip(b"\0"):
                raise self._error("something follows the end of the tar", hint="two archives in one are not read")

    def _member(self, header: bytes, extra: dict[bytes, bytes]) -> Member:
        self._check_sum(header)
        type_flag = header[156:157]
        kind = _KINDS.get(type_flag)
        if kind is None:
            hint = "make the tar without --sparse" if type_flag == b"S" else ""
            raise self._error(f"an entry of the type {type_flag!r} is not read", hint=hint)
        name = extra.get(b"path", self._name(header))
        size = self._decimal(extra[b"size"]) if b"size" in extra else self._number(header[124:136])
        if kind is Kind.FILE and type_flag != b"7" and name.endswith(b"/"):
            kind = Kind.DIRECTORY  # how tar wrote directories before 1988, and some programs do again
        if kind is not Kind.FILE and size:
            # Some readers skip these bytes, others take them for headers.
            raise self._error(f"{name[:200]!r} is a {kind.value} with a size")
        return Member(
            name=name,
            kind=kind,
            mode=self._number(header[100:108]) & 0o7777,
            uid=self._decimal(extra[b"uid"]) if b"uid" in extra else self._number(header[108:116]),
            gid=self._decimal(extra[b"gid"]) if b"gid" in extra else self._number(header[116:124]),
            size=size,
            offset=self._offset,
            link=extra.get(b"linkpath", _text(header[157:257])),
            attributes=tuple(_attribute(key) for key in extra if key.startswith(_XATTR)),
        )

    def _name(self, header: bytes) -> bytes:
        name = _text(header[0:100])
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
        return prefix + b"/" + name if prefix else name

    def _check_sum(self, header: bytes) -> None:
        total = sum(header) - sum(header[148:156]) + 8 * 0x20
        said = header[148:156].strip(b" \0")
        if said.strip(b"01234567") or total != int(said or b"0", 8):
            raise self._error("a header's checksum is wrong: this is no tar, or it is damaged")

    def _number(self, field: bytes) -> int:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        text = field.strip(b" \0")
        if text.strip(b"01234567"):
            raise self._error(f"{field!r} is not a number")
        return int(text or b"0", 8)

    def _decimal(self, text: bytes) -> int:
        if not text.isdigit() or len(text) > 19:
            raise self._error(f"{text[:40]!r} is not a number")
        return int(text)

    def _read_extra(self, kind: bytes, header: bytes, extra: dict[bytes, bytes]) -> None:
        self._check_sum(header)
        size = self._number(header[124:136])
        self._extra += size
        if self._extra > _MOST_EXTRA:
            raise self._error(f"long names and PAX headers of {self._extra} bytes for one entry")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        if kind in (b"L", b"K"):
            self._add(extra, b"path" if kind == b"L" else b"linkpath", data.rstrip(b"\0"))
            return
        for key, value in self._pax(data):
            if key.startswith(b"GNU.sparse."):
                raise self._error("sparse files are not read", hint="make the tar without --sparse")
            if kind == b"g" and key in (b"path", b"linkpath", b"size", b"uid", b"gid"):
                raise self._error(f"a global PAX header sets {key.decode()!r}")
            if kind == b"x":
                self._add(extra, key, value)

    def _add(self, extra: dict[bytes, bytes], key: bytes, value: bytes) -> None:
        if key in extra or (key in (b"path", b"linkpath") and (not value or b"\0" in value)):
            raise self._error(f"{key[:80]!r} stands twice, is empty or holds a zero byte in one entry's headers")
        extra[key] = value

    def _pax(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        position = 0
        while position < len(data):
            found = _PAX_RECORD.match(data, position)
            end = position + int(found.group(1)) if found else 0
            record = data[found.end() : end] if found else b""
            if found is None or end > len(data) or not record.endswith(b"\n") or b"=" not in record:
                raise self._error("a PAX header is damaged")
            key, _, value = record[:-1].partition(b"=")
            yield key, value
            position = end


def read_tar(stream: Reader, intake: Intake) -> Iterator[Item]:
    """Yield a root file system's or a layer's entries, contents kept by the intake. Raises BadInput naming the path
    of whatever cannot be in an image."""
    tar = TarReader(stream, what=intake.what)
    for member in tar:
        path = intake.name(member.name)
        if not intake.is_kept(path):
            continue
        item = _item(path, member, tar, intake)
        intake.owner(member.uid, member.gid)
        for attribute in member.attributes:
            intake.attribute(path, attribute)
        yield item


def _item(path: str, member: Member, tar: TarReader, intake: Intake) -> Item:
    if member.kind is Kind.DIRECTORY:
        return intake.directory(path, mode=member.mode)
    if member.kind is Kind.LINK:
        return intake.link(path, target=member.link)
    if member.kind is Kind.HARD_LINK:
        target = intake.canonical(member.link)
        if target.partition("/")[0] in KERNEL_DIRECTORIES:
            raise intake.refuse(path, f"a hard link to {target!r}, which is left out of images")
        return Item(path, None, target=target)
    if member.kind is Kind.DEVICE:
        raise intake.refuse(
            path, "it is a device or a pipe", hint="only files, directories and links; /dev is filled by Nebh"
        )
    return intake.file(path, mode=member.mode, size=member.size, chunks=tar.data())


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _attribute(key: bytes) -> str:
    return key.partition(b".xattr.")[2].decode(errors="backslashreplace")
