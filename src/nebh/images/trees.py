"""Building, comparing and removing directory trees by descriptors only: no path of an image is ever resolved whole,
and no link is ever followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from nebh.images.objects import hash_file
from nebh.model.image import EntryType, TreeEntry, TreeManifest

# 1980-01-01: the first time that zip files can hold, so programs that pack their own files go on working.
FIXED_TIME: Final = 315_532_800
ROOT_MODE: Final = 0o755

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_EMPTY: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Link = Callable[[TreeEntry, int, str], None]


class _Folders:
    """The open directories from the root to where the builder stands; each gets its mode and time when it is left."""

    def __init__(self, root: int) -> None:
        self.stack: list[tuple[str, int, int]] = [("", root, ROOT_MODE)]

    def enter(self, parent: str) -> int:
        """Leave what is not above `parent`; return the descriptor of `parent`."""
        while self.stack[-1][0] != parent:
            self.leave()
        return self.stack[-1][1]

    def push(self, path: str, name: str, mode: int) -> None:
        """Make a directory in the current one and stand in it."""
        above = self.stack[-1][1]
        os.mkdir(name, 0o700, dir_fd=above)
        self.stack.append((path, os.open(name, _FOLDER, dir_fd=above), mode))

    def leave(self) -> None:
        """Finish the current directory."""
        _, descriptor, mode = self.stack.pop()
        try:
            os.fchmod(descriptor, mode)
            os.utime(descriptor, (FIXED_TIME, FIXED_TIME))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the descriptors back after an error."""
        for _, descriptor, _ in self.stack:
            os.close(descriptor)
        self.stack.clear()


def build(manifest: TreeManifest, *, parent: int, name: str, link: Link) -> None:
    """Make the directory `name` in `parent` with everything in a *valid* manifest; `link(entry, folder, name)` makes
    the files that are not empty. Raises OSError; what was built so far then stays for `remove`."""
    os.mkdir(name, 0o700, dir_fd=parent)
    folders = _Folders(os.open(name, _FOLDER, dir_fd=parent))
    try:
        # By components, so that a directory's entries follow it at once: in plain order `a-b` stands before `a/b`.
        for entry in sorted(manifest.entries, key=lambda entry: entry.path.replace("/", "\0")):
            above, _, last = entry.path.rpartition("/")
            folder = folders.enter(above)
            if entry.type is EntryType.DIRECTORY:
                folders.push(entry.path, last, entry.mode)
            elif entry.type is EntryType.LINK:
                os.symlink(entry.target, last, dir_fd=folder)
                os.utime(last, (FIXED_TIME, FIXED_TIME), dir_fd=folder, follow_symlinks=False)
            elif entry.size:
                link(entry, folder, last)
            else:
                _make_empty(folder, last, entry.mode)
        while folders.stack:
            folders.leave()
    finally:
        folders.close()


def _make_empty(folder: int, name: str, mode: int) -> None:
    descriptor = os.open(name, _EMPTY, 0o600, dir_fd=folder)
    try:
        os.fchmod(descriptor, mode)
        os.utime(descriptor, (FIXED_TIME, FIXED_TIME))
    finally:
        os.close(descriptor)


def remove(name: str, *, parent: int) -> None:
    """Remove the directory `name` in `parent` and all below it, whatever its modes. Does not touch files' inodes
    beyond taking a name away: they may be shared objects."""
    os.chmod(name, 0o700, dir_fd=parent)
    folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in found:
            if is_directory:
                remove(child, parent=folder)
            else:
                os.unlink(child, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def differences(manifest: TreeManifest, root: Path) -> tuple[str, ...]:
    """Return what a directory tree has other than the manifest says, as `path: what`; contents are re-hashed."""
    try:
        descriptor = os.open(root, _FOLDER)
    except OSError as error:
        return (f"/: {error.strerror}",)
    found: list[str] = []
    wanted = {entry.path: entry for entry in manifest.entries}
    try:
        for path, folder, name in _walk(descriptor, ""):
            entry = wanted.pop(path, None)
            problem = "is not in the manifest" if entry is None else _difference(entry, folder, name)
            if problem:
                found.append(f"{path}: {problem}")
    finally:
        os.close(descriptor)
    return (*found, *(f"{path}: is missing" for path in wanted))


def _walk(folder: int, prefix: str) -> Iterator[tuple[str, int, str]]:
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_directory in found:
        yield prefix + name, folder, name
        if is_directory:
            below = os.open(name, _FOLDER, dir_fd=folder)
            try:
                yield from _walk(below, f"{prefix}{name}/")
            finally:
                os.close(below)


def _difference(entry: TreeEntry, folder: int, name: str) -> str:
    state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    kind = {stat.S_IFDIR: EntryType.DIRECTORY, stat.S_IFREG: EntryType.FILE, stat.S_IFLNK: EntryType.LINK}
    if kind.get(stat.S_IFMT(state.st_mode)) is not entry.type:
        return f"is not a {entry.type.value}"
    if entry.type is EntryType.LINK:
        target = os.readlink(name, dir_fd=folder)
        return "" if target == entry.target else f"leads to {target!r}, not to {entry.target!r}"
    if stat.S_IMODE(state.st_mode) != entry.mode:
        return f"has mode {stat.S_IMODE(state.st_mode):o}, not {entry.mode:o}"
    if entry.type is EntryType.DIRECTORY:
        return ""
    if state.st_size != entry.size:
        return f"has {state.st_size} bytes, not {entry.size}"
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        return "" if hash_file(descriptor) == entry.sha256 else "has other contents"
    finally:
        os.close(descriptor)
