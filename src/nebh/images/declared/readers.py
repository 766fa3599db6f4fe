"""Readers of what a declared image is made of: .deb, tar, file or directory, wheel. Each runs in a confined child."""

from __future__ import annotations

import configparser
import io
import os
import posixpath
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Final, cast

from nebh.host.run import Command, start
from nebh.images.intake import Intake, Item
from nebh.images.objects import CHUNK
from nebh.images.sources.directory import read_directory
from nebh.images.sources.streams import Hashed, Window, plain
from nebh.images.sources.tar import read_tar
from nebh.model.errors import BadInput
from nebh.model.image import TreeEntry

ROOT: Final = "_"
_MOST_TEXT: Final = 1 << 20
_SKIPPED: Final = {"__pycache__", ".git"}
_SCRIPT: Final = "#!/usr/bin/python3\nimport sys\n\nfrom {module} import {name}\n\nsys.exit({call}())\n"


def read_package(descriptor: int, intake: Intake) -> Iterator[Item]:
    """Yield the files of a .deb (an open file). dpkg-deb takes the archive apart; its maintainer scripts are never
    even unpacked."""
    command = Command(argv=("dpkg-deb", "--fsys-tarfile", "-"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        process = start(command, stdin=descriptor, stdout=-1, stderr=-1, new_session=False)
    except FileNotFoundError:
        raise BadInput(f"cannot read {intake.what}: there is no dpkg-deb here", hint="install dpkg") from None
    output, errors = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
    try:
        yield from read_tar(_Bounded(output, os.fstat(descriptor).st_size, intake), intake)
    finally:
        output.close()
        said = errors.read(2000).decode(errors="replace").strip()
        status = process.wait()
    if status:
        raise BadInput(f"cannot read {intake.what}: it is no sound Debian package: {said}")


class _Bounded:
    """Watches how much a compressed package unpacks to."""

    def __init__(self, stream: IO[bytes], size: int, intake: Intake) -> None:
        self._stream, self._size, self._intake = stream, size, intake
        self._count = 0

    def read(self, size: int = CHUNK, /) -> bytes:
        data = self._stream.read(size)
        self._count += len(data)
        limits = self._intake.limits
        if self._count > limits.free and self._count > limits.ratio * self._size:
            raise BadInput(f"cannot read {self._intake.what}: it unpacks to more than {limits.ratio} times its size")
        return data


def read_archive(descriptor: int, intake: Intake, *, to: str, strip: int) -> Iterator[Item]:
    """Yield a tar's entries below `to`, `strip` leading folders taken off; what is not deeper than that goes."""
    source = Hashed(Window(descriptor))
    for item in read_tar(plain(source, what=intake.what, limits=intake.limits), intake):
        parts = item.path.split("/")[strip:]
        if not parts or not parts[0]:
            continue
        target = item.target
        if item.type is None:
            target = _below(to, "/".join(item.target.split("/")[strip:]))
        yield Item(_below(to, "/".join(parts)), item.type, item.mode, item.size, target, item.sha256)


def read_path(descriptor: int, intake: Intake) -> Iterator[Item]:
    """Yield a directory's entries below ROOT, or the one file as ROOT; `.git` and `__pycache__` stay out."""
    state = os.fstat(descriptor)
    if stat.S_ISDIR(state.st_mode):
        for item in read_directory(descriptor, intake, prefix=f"{ROOT}/".encode()):
            if not _SKIPPED & set(item.path.split("/")):
                yield item
        return
    chunks = iter(lambda: os.read(descriptor, CHUNK), b"")
    path = intake.name(ROOT.encode())
    yield intake.file(path, mode=stat.S_IMODE(state.st_mode), size=state.st_size, chunks=chunks)


def place_root(entries: tuple[TreeEntry, ...], to: str) -> tuple[TreeEntry, ...]:
    """Return what `read_path` yielded, standing at the absolute path `to` of the image."""
    found = (replace(entry, path=place_path(entry.path, to)) for entry in entries)
    return tuple(entry for entry in found if entry.path)


def place_path(path: str, to: str) -> str:
    """Return where a path of `read_path` stands below `to`; "" for the image's own root."""
    return (to.strip("/") + path.removeprefix(ROOT)).strip("/")


def read_wheel(descriptor: int, intake: Intake, *, site: str) -> Iterator[Item]:
    """Yield a wheel's files: its modules below `site`, its programs in usr/local/bin, its data in usr/local."""
    with os.fdopen(os.dup(descriptor), "rb") as file, _open_zip(file, intake) as wheel:
        seen: set[str] = set()
        for member in wheel.infolist():
            if member.is_dir():
                continue
            path = intake.name(member.filename.encode())
            place = _wheel_place(path, site)
            if not place or not intake.is_kept(place):
                continue
            if place in seen:
                raise intake.refuse(place, "it stands twice in the wheel")
            seen.add(place)
            if member.file_size > intake.limits.file or member.file_size > intake.limits.free + (
                intake.limits.ratio * member.compress_size
            ):
                raise intake.refuse(path, "it unpacks to too much")
            yield _wheel_item(wheel, member, place, intake)
        yield from _console_scripts(wheel, seen, intake)


def _open_zip(file: IO[bytes], intake: Intake) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise BadInput(f"cannot read {intake.what}: it is no wheel: {error}") from error


def _wheel_place(path: str, site: str) -> str:
    top, _, rest = path.partition("/")
    if not top.endswith(".data"):
        return f"{site}/{path}"
    kind, _, rest = rest.partition("/")
    places = {"purelib": site, "platlib": site, "scripts": "usr/local/bin", "data": "usr/local"}
    return f"{places[kind]}/{rest}" if kind in places and rest else ""


def _wheel_item(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, place: str, intake: Intake) -> Item:
    mode = (member.external_attr >> 16) & 0o777 or 0o644
    if stat.S_ISLNK(member.external_attr >> 16):
        raise intake.refuse(place, "wheels hold no links")
    try:
        if place.startswith("usr/local/bin/") and member.file_size < _MOST_TEXT:
            data = wheel.read(member)
            if data.startswith(b"#!python"):
                data = b"#!/usr/bin/python3" + data[data.index(b"\n") if b"\n" in data else len(data) :]
            return intake.file(place, mode=0o755, size=len(data), chunks=[data] if data else [])
        with wheel.open(member) as content:
            chunks = iter(lambda: content.read(CHUNK), b"")
            return intake.file(place, mode=mode, size=member.file_size, chunks=chunks)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise intake.refuse(place, f"it cannot be unpacked: {error}") from error


def _console_scripts(wheel: zipfile.ZipFile, seen: set[str], intake: Intake) -> Iterator[Item]:
    """Yield the programs that a wheel's entry points declare, as pip writes them."""
    name = next((one for one in wheel.namelist() if one.endswith(".dist-info/entry_points.txt")), "")
    if not name or wheel.getinfo(name).file_size > _MOST_TEXT:
        return
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(wheel.read(name).decode())
    except (configparser.Error, UnicodeDecodeError) as error:
        raise intake.refuse(name, f"it cannot be read: {error}") from error
    for program, target in parser.items("console_scripts") if parser.has_section("console_scripts") else ():
        module, _, call = target.partition("[")[0].strip().partition(":")
        words = (*module.split("."), *call.split("."))
        place = f"usr/local/bin/{program}"
        if place in seen or "/" in program or not all(word.isidentifier() for word in words):
            continue
        data = _SCRIPT.format(module=module, name=call.split(".")[0], call=call).encode()
        yield intake.file(intake.name(place.encode()), mode=0o755, size=len(data), chunks=io.BytesIO(data))


def _below(to: str, path: str) -> str:
    return posixpath.join(to.strip("/"), path) if path else to.strip("/")
