"""Listing and comparing states of a volume. Names in it are anybody's: they are shown, never used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nebh.host.trees import Entry, open_folder, walk
from nebh.model.stored import ChangeKind, FileKind, StoredChange, StoredFile

_PIECE = 1 << 20


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
