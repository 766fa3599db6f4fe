"""Trees of files that somebody hostile may have written: walked by descriptors, never through a link or into another
file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nebh.host import faults
from nebh.host.disk import sync_filesystem
from nebh.host.run import Command, run

DEPTH = 200
"""Folders in folders: each level holds a descriptor open, two while copying."""
_FICLONE = 0x40049409
_PIECE = 64 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_RANGES = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_ATTRIBUTES = frozenset({errno.EOPNOTSUPP, errno.ENODATA})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name in a tree. path: relative; folder: descriptor of the folder it is in, open until the next entry is asked
    for; state: of the name itself."""

    path: bytes
    name: bytes
    folder: int
    state: os.stat_result


def walk(top: int, *, after: bytes = b"") -> Iterator[Entry]:
    """Yield what is below the folder `top`, a folder before what is in it, names in the order of their bytes. What goes
    meanwhile is left out. after: a path; only what comes behind it. Raises OSError (ELOOP below DEPTH folders)."""
    device = os.fstat(top).st_dev
    stack = [(os.dup(top), b"", iterate(top), after.split(b"/") if after else [])]
    try:
        while stack:
            folder, prefix, names, behind = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                os.close(folder)
                continue
            if behind and name < behind[0]:
                continue
            try:
                state = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            inside = behind[1:] if behind and name == behind[0] else []
            if not (behind and name == behind[0]):
                yield Entry(path=prefix + name, name=name, folder=folder, state=state)
            if stat.S_ISDIR(state.st_mode) and state.st_dev == device:
                _check_depth(len(stack), prefix + name)
                with contextlib.suppress(FileNotFoundError):
                    inner = _enter(folder, name, state)
                    stack.append((inner, prefix + name + b"/", iterate(inner), inside))
    finally:
        for folder, *_ in stack:
            os.close(folder)


def iterate(folder: int) -> Iterator[bytes]:
    """Return the names in a folder, sorted by their bytes."""
    return iter(sorted(os.fsencode(name) for name in os.listdir(folder)))


def open_folder(path: Path) -> int:
    """Open a folder; a link at its own place is refused (OSError)."""
    return os.open(path, _FOLDER)


def _enter(folder: int, name: bytes, state: os.stat_result) -> int:
    inner = os.open(name, _FOLDER, dir_fd=folder)
    found = os.fstat(inner)
    if (found.st_dev, found.st_ino) != (state.st_dev, state.st_ino):
        os.close(inner)
        raise OSError(errno.EBUSY, "it changed while it was read", os.fsdecode(name))
    return inner


def _check_depth(depth: int, path: bytes) -> None:
    if depth > DEPTH:
        raise OSError(errno.ELOOP, f"more than {DEPTH} folders in one another", os.fsdecode(path)[:200])


def measure(top: Path) -> int:
    """Return the bytes that the files below `top` take on the disk; what has several names counts once."""
    seen: set[int] = set()
    total = 0
    folder = open_folder(top)
    try:
        for entry in walk(folder):
            if entry.state.st_nlink > 1 and not stat.S_ISDIR(entry.state.st_mode):
                if entry.state.st_ino in seen:
                    continue
                seen.add(entry.state.st_ino)
            total += entry.state.st_blocks * 512
    finally:
        os.close(folder)
    return total


def remove_tree(path: Path) -> None:
    """Remove a tree that nobody writes to any more; an absent one is fine. Raises CommandFailed."""
    # rm goes through any depth by descriptors, which shutil.rmtree does not
    run(Command(argv=("rm", "-rf", "--one-file-system", "--", str(path)), timeout=None))


def copy_tree(source: Path, target: Path, *, clone: bool) -> None:
    """Copy the folder `source` to `target`, which is empty or not there: contents, holes, owners, modes, times, attributes,
    links of both kinds, pipes and sockets. On the disk on return. Not entered: other file systems.

    clone: files share their blocks (FICLONE). Raises OSError (EOPNOTSUPP where the file system cannot; EPERM for a
    device file).
    """
    top = open_folder(source)
    try:
        target.mkdir(mode=0o700, exist_ok=True)
        made = open_folder(target)
        try:
            _Copy(top=made, clone=clone).run(top)
            sync_filesystem(made)
        finally:
            os.close(made)
    finally:
        os.close(top)


def fill_top(top: Path, fill: Callable[[Path], None]) -> None:
    """Have `fill` make a folder inside the empty folder `top`, and let `top` become it: for where `top` itself cannot be
    exchanged, such as a subvolume. On the disk on return. Raises OSError, and what `fill` does."""
    beside = top / f".{secrets.token_hex(16)}"
    fill(beside)
    made, target = open_folder(beside), open_folder(top)
    try:
        for name in iterate(made):
            os.rename(name, name, src_dir_fd=made, dst_dir_fd=target)
        beside.rmdir()
        _take_over(made, target)
        sync_filesystem(target)
    finally:
        os.close(made)
        os.close(target)


@dataclass(frozen=True, kw_only=True)
class _Level:
    source: int
    target: int
    names: Iterator[bytes]
    prefix: bytes

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


@dataclass(frozen=True, kw_only=True)
class _Copy:
    top: int
    clone: bool
    links: dict[int, bytes] = field(default_factory=dict)

    def run(self, source: int) -> None:
        device = os.fstat(source).st_dev
        stack = [_level(os.dup(source), os.dup(self.top), b"")]
        try:
            while stack:
                level = stack[-1]
                name = next(level.names, None)
                if name is None:
                    _take_over(level.source, level.target)
                    stack.pop().close()
                    continue
                state = os.stat(name, dir_fd=level.source, follow_symlinks=False)
                if not stat.S_ISDIR(state.st_mode):
                    self._copy_one(level, name, state)
                    continue
                os.mkdir(name, 0o700, dir_fd=level.target)
                if state.st_dev == device:
                    _check_depth(len(stack), level.prefix + name)
                    inner = _enter(level.source, name, state)
                    stack.append(_level(inner, os.open(name, _FOLDER, dir_fd=level.target), level.prefix + name + b"/"))
        finally:
            for level in stack:
                level.close()

    def _copy_one(self, level: _Level, name: bytes, state: os.stat_result) -> None:
        if state.st_nlink > 1:
            first = self.links.setdefault(state.st_ino, level.prefix + name)
            if first != level.prefix + name:
                os.link(first, name, src_dir_fd=self.top, dst_dir_fd=level.target, follow_symlinks=False)
                return
        if stat.S_ISREG(state.st_mode):
            self._copy_file(level, name)
            faults.point("volume.copy.file")
            return
        if stat.S_ISLNK(state.st_mode):
            os.symlink(os.readlink(name, dir_fd=level.source), name, dir_fd=level.target)
        elif stat.S_ISFIFO(state.st_mode) or stat.S_ISSOCK(state.st_mode):
            os.mknod(name, state.st_mode, dir_fd=level.target)
        else:
            raise OSError(errno.EPERM, "it is a device file", os.fsdecode(level.prefix + name))
        os.chown(name, state.st_uid, state.st_gid, dir_fd=level.target, follow_symlinks=False)
        if not stat.S_ISLNK(state.st_mode):
            os.chmod(name, stat.S_IMODE(state.st_mode), dir_fd=level.target)
        os.utime(name, ns=(state.st_atime_ns, state.st_mtime_ns), dir_fd=level.target, follow_symlinks=False)

    def _copy_file(self, level: _Level, name: bytes) -> None:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=level.source)
        try:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                raise OSError(errno.EBUSY, "it changed while it was read", os.fsdecode(level.prefix + name))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=level.target)
            try:
                if self.clone:
                    fcntl.ioctl(target, _FICLONE, source)
                else:
                    _copy_data(source, target)
                _take_over(source, target)
            finally:
                os.close(target)
        finally:
            os.close(source)


def _level(source: int, target: int, prefix: bytes) -> _Level:
    return _Level(source=source, target=target, names=iterate(source), prefix=prefix)


def _take_over(source: int, target: int) -> None:
    """Give `target` the owner, mode, attributes and times of `source`: the owner first, for it clears setuid bits."""
    state = os.fstat(source)
    os.fchown(target, state.st_uid, state.st_gid)
    os.fchmod(target, stat.S_IMODE(state.st_mode))
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise
        names = []
    for name in names:
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))


def _copy_data(source: int, target: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    place = 0
    while place < size:
        try:
            place = os.lseek(source, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(source, place, os.SEEK_HOLE)
        os.lseek(target, place, os.SEEK_SET)
        os.lseek(source, place, os.SEEK_SET)
        place = _copy_range(source, target, place, min(end, size))


def _copy_range(source: int, target: int, place: int, end: int) -> int:
    """Copy from both offsets on; return where it ended."""
    ranges = True
    while place < end:
        done = 0
        if ranges:
            try:
                done = os.copy_file_range(source, target, min(_PIECE, end - place))
            except OSError as error:
                if error.errno not in _NO_RANGES:
                    raise
                ranges = False
                continue
        else:
            data = os.read(source, min(1 << 20, end - place))
            done = len(data)
            written = 0
            while written < done:
                written += os.write(target, data[written:])
        if done == 0:  # it became shorter meanwhile
            return end
        place += done
    return place
