"""Listing and comparing states of a volume. Names in it are anybody's: they are shown, never used."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nebh.host.trees import Entry, iterate, open_folder, walk
from nebh.model.errors import NotFound
from nebh.model.stored import ChangeKind, FileKind, StoredChange, StoredFile

_PIECE = 1 << 20
_ROOM, _LONGEST, _FIELDS = 40 << 10, 25 << 10, 150
"""Bytes of one page as JSON, of its longest entry, and of an entry without its path."""


def list_files(top: Path, *, limit: int) -> tuple[StoredFile, ...]:
    """Return at most `limit` names below `top`. Raises OSError."""
    found: list[StoredFile] = []
    folder = open_folder(top)
    try:
        for entry in walk(folder):
            if len(found) >= limit:
                break
            found.append(_describe(entry))
    finally:
        os.close(folder)
    return tuple(found)


def list_page(
    top: Path, *, under: str, deep: bool, after: bytes, limit: int, seconds: float
) -> tuple[tuple[StoredFile, ...], bytes]:
    """Return at most `limit` names in the folder `under` ("" = the top; as shown) of `top` behind the path `after`, and
    where to go on, b"" = that is all. deep: with all below it. What takes longer than `seconds` goes on with the next
    page. Raises OSError, NotFound."""
    end, room = time.monotonic() + seconds, _ROOM
    found: list[StoredFile] = []
    folder = _open_under(top, under)
    try:
        entries = walk(folder, after=after) if deep else _entries(folder, after)
        for entry in entries:
            found.append(replace(_describe(entry), path="/".join(filter(None, (under, show_path(entry.path))))))
            room -= _cost(entry.path) + len(under)
            if len(found) >= limit or room < _LONGEST or time.monotonic() > end:
                return tuple(found), entry.path
    finally:
        os.close(folder)
    return tuple(found), b""


def _cost(path: bytes) -> int:
    return _FIELDS + len(json.dumps(show_path(path)))


def _entries(folder: int, after: bytes) -> Iterator[Entry]:
    for name in iterate(folder):
        if name > after:
            with contextlib.suppress(FileNotFoundError):
                state = os.stat(name, dir_fd=folder, follow_symlinks=False)
                yield Entry(path=name, name=name, folder=folder, state=state)


def _open_under(top: Path, under: str) -> int:
    """Open a folder by its shown path, never through a link."""
    folder = open_folder(top)
    try:
        for part in filter(None, under.split("/")):
            name = next((one for one in iterate(folder) if show_path(one) == part), None)
            if name is None:
                raise NotFound(f"there is no {under!r} in this volume")
            try:
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise NotFound(f"{under!r} is no folder of this volume") from error
                raise
            os.close(folder)
            folder = inner
    except BaseException:
        os.close(folder)
        raise
    return folder


def compare_page(
    older: Path, newer: Path, *, after: bytes, limit: int, seconds: float
) -> tuple[tuple[StoredChange, ...], bytes]:
    """Return at most `limit` paths behind `after` that differ, and where to go on, as `list_page`. Raises OSError."""
    end, room = time.monotonic() + seconds, _ROOM
    found: list[StoredChange] = []
    one, other = open_folder(older), open_folder(newer)
    try:
        for before, now in _pairs(walk(one, after=after), walk(other, after=after)):
            entry = before or now
            assert entry is not None
            change = _change(before, now, contents=False)
            if change is not None:
                found.append(change)
                room -= _cost(entry.path)
            if len(found) >= limit or room < _LONGEST or time.monotonic() > end:
                return tuple(found), entry.path
    finally:
        os.close(one)
        os.close(other)
    return tuple(found), b""


def show_path(path: bytes) -> str:
    r"""Return a path as text; bytes that are no UTF-8 as `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def _describe(entry: Entry) -> StoredFile:
    state = entry.state
    return StoredFile(
        path=show_path(entry.path),
        kind=_kind(state.st_mode),
        size=_size(state),
        mode=stat.S_IMODE(state.st_mode),
        uid=state.st_uid,
        gid=state.st_gid,
        modified=state.st_mtime_ns // 1_000_000,
    )


def _kind(mode: int) -> FileKind:
    if stat.S_ISREG(mode):
        return FileKind.FILE
    if stat.S_ISDIR(mode):
        return FileKind.FOLDER
    return FileKind.LINK if stat.S_ISLNK(mode) else FileKind.OTHER


def _size(state: os.stat_result) -> int:
    return 0 if stat.S_ISDIR(state.st_mode) else state.st_size


def compare(older: Path, newer: Path, *, limit: int, contents: bool) -> tuple[StoredChange, ...]:
    """Return at most `limit` paths that differ. Raises OSError."""
    found: list[StoredChange] = []
    one, other = open_folder(older), open_folder(newer)
    try:
        for before, after in _pairs(walk(one), walk(other)):
            if len(found) >= limit:
                break
            change = _change(before, after, contents=contents)
            if change is not None:
                found.append(change)
    finally:
        os.close(one)
        os.close(other)
    return tuple(found)


def _pairs(one: Iterator[Entry], other: Iterator[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Join two walks by path: both come in the order of their paths' parts."""
    before, after = next(one, None), next(other, None)
    while before is not None or after is not None:
        if after is None or (before is not None and _parts(before) < _parts(after)):
            yield before, None
            before = next(one, None)
        elif before is None or _parts(after) < _parts(before):
            yield None, after
            after = next(other, None)
        else:
            yield before, after
            before, after = next(one, None), next(other, None)


def _parts(entry: Entry) -> list[bytes]:
    return entry.path.split(b"/")


def _change(before: Entry | None, after: Entry | None, *, contents: bool) -> StoredChange | None:
    if before is None or after is None:
        one = before or after
        assert one is not None
        kind = ChangeKind.REMOVED if after is None else ChangeKind.ADDED
        sizes = {"before": _size(before.state) if before else 0, "after": _size(after.state) if after else 0}
        return StoredChange(path=show_path(one.path), kind=kind, **sizes)
    if _same(before, after, contents=contents):
        return None
    sizes = {"before": _size(before.state), "after": _size(after.state)}
    return StoredChange(path=show_path(before.path), kind=ChangeKind.CHANGED, **sizes)


def _same(before: Entry, after: Entry, *, contents: bool) -> bool:
    old, new = before.state, after.state
    if (old.st_mode, old.st_uid, old.st_gid) != (new.st_mode, new.st_uid, new.st_gid):
        return False
    if stat.S_ISDIR(old.st_mode):
        return True
    if stat.S_ISLNK(old.st_mode):
        return os.readlink(before.name, dir_fd=before.folder) == os.readlink(after.name, dir_fd=after.folder)
    if (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns):
        return False
    return not (contents and stat.S_ISREG(old.st_mode)) or _same_bytes(before, after)


def _same_bytes(before: Entry, after: Entry) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        open(os.open(before.name, flags, dir_fd=before.folder), "rb") as one,  # noqa: PTH123 - by descriptors
        open(os.open(after.name, flags, dir_fd=after.folder), "rb") as other,  # noqa: PTH123
    ):
        while True:
            data = one.read(_PIECE)
            if data != other.read(_PIECE):
                return False
            if not data:
                return True
