"""Files that only one container sees: a file system in memory, mounted in the namespace that its conmon lives in.

The host sees an empty folder. Nothing is ever unmounted: it is gone with the container. Values come through a
descriptor of memory, never in a request, so that no error message can hold one. For the launcher's process alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nebh.host import namespaces
from nebh.host.files import write_all

ROOM = 16 << 20
"""Bytes in memory, at most, that files and their replacements take together."""
INODES = 1024
_FLAGS = namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC


@dataclass(frozen=True, kw_only=True)
class MemoryFile:
    """A file to be. place: path below the folder; size: bytes; owner: host user and group id; mode: permission bits."""

    place: str
    size: int
    owner: int
    mode: int = 0o400


def pack(files: Sequence[MemoryFile], values: Sequence[bytes]) -> tuple[list[dict[str, Any]], int]:
    """Return files as JSON values and a descriptor of memory that holds their bytes one after another; the caller closes
    it."""
    descriptor = os.memfd_create("nebh", os.MFD_CLOEXEC)
    try:
        for value in values:
            write_all(descriptor, value)
    except BaseException:
        os.close(descriptor)
        raise
    return [asdict(one) for one in files], descriptor


def unpack(plain: Sequence[dict[str, Any]], descriptor: int) -> Iterator[tuple[MemoryFile, bytes]]:
    """Yield each file with its bytes."""
    offset = 0
    for one in plain:
        file = MemoryFile(**one)
        data = b""
        while len(data) < file.size:
            part = os.pread(descriptor, file.size - len(data), offset + len(data))
            if not part:
                raise OSError(errno.EIO, "the values ended early")
            data += part
        offset += file.size
        yield file, data


def fill(folder: Path, plain: Sequence[dict[str, Any]], descriptor: int) -> None:
    """Mount memory at `folder`, in this process's mount namespace, and write the files into it."""
    _mount(folder)
    for file, data in unpack(plain, descriptor):
        path = folder / file.place
        if path.parent != folder and not path.parent.is_dir():
            path.parent.mkdir()
            path.parent.chmod(0o555)
        _write(path, file, data)


def replace(folder: Path, plain: Sequence[dict[str, Any]], descriptor: int) -> list[str]:
    """Put each file in the place of the one of its name in one step; return the places whose bytes changed. In the mount
    namespace where `folder` is mounted."""
    changed = []
    for file, data in unpack(plain, descriptor):
        path = folder / file.place
        if _read(path) == data:
            continue
        beside = path.with_name(f".{path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()  # of a replacement that a crash cut short
        _write(beside, file, data)
        beside.replace(path)
        changed.append(file.place)
    return changed


@contextlib.contextmanager
def mounts_of(pid: int) -> Iterator[None]:
    """Be in the mount namespace of a process for a moment. A process that cannot come back ends."""
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(there, namespaces.CLONE_NEWNS)
        finally:
            os.close(there)
        try:
            yield
        finally:
            go_home(home)
    finally:
        os.close(home)


def go_home(mounts: int) -> None:
    """Return to the mount namespace of a descriptor; a process that cannot ends: its parent starts it anew."""
    try:
        namespaces.setns(mounts, namespaces.CLONE_NEWNS)
    except OSError:
        os._exit(1)


def _mount(folder: Path) -> None:
    data = f"size={ROOM},nr_inodes={INODES},mode=0711"
    try:
        namespaces.mount("tmpfs", folder, kind="tmpfs", flags=_FLAGS, data=f"{data},noswap")
    except OSError as error:
        if error.errno != errno.EINVAL:  # kernels before 6.4 do not know it
            raise
        namespaces.mount("tmpfs", folder, kind="tmpfs", flags=_FLAGS, data=data)


def _write(path: Path, file: MemoryFile, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        write_all(descriptor, data)
        os.fchown(descriptor, file.owner, file.owner)
        os.fchmod(descriptor, file.mode)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
