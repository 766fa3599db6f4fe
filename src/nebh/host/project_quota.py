"""Quotas of a folder and all below it (project quotas), where a file system is mounted with them: XFS and ext4 with
`prjquota`. The project's number is the folder's inode number. What lives in a user namespace cannot change it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_QUOTACTL_FD = 443  # the same on every architecture of ours
_PROJECTS = 2
_GET, _SET_LIMIT, _STATE = 0x5803, 0x5804, 0x5805
_ENFORCED = 1 << 5
_LIMITS = struct.Struct("=bbHIQQQQQQiiHHbbbbQQQiHh8x")
_HARD_BLOCKS = 1 << 3
_SECTOR = 512

_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = struct.Struct("=IIIII8x")
_INHERIT = 0x200


def enforces_projects(folder: Path) -> bool:
    """Tell whether the file system of a folder enforces project quotas (and this process may set them)."""
    answer = ctypes.create_string_buffer(256)
    with _opened(folder) as descriptor:
        try:
            _quotactl(descriptor, _STATE, 0, answer)
        except OSError:
            return False
    (flags,) = struct.unpack_from("=H", answer, 2)
    return bool(flags & _ENFORCED)


def limit_folder(folder: Path, quota: int) -> None:
    """Make an empty folder, or one this was done to before, a project of at most `quota` bytes, 0 = any. Raises
    OSError."""
    with _opened(folder) as descriptor:
        project = os.fstat(descriptor).st_ino & 0xFFFFFFFF
        attributes = bytearray(_ATTRIBUTES.size)
        fcntl.ioctl(descriptor, _GET_ATTRIBUTES, attributes)
        flags, extent, extents, found, cow = _ATTRIBUTES.unpack(attributes)
        if found != project or not flags & _INHERIT:
            changed = _ATTRIBUTES.pack(flags | _INHERIT, extent, extents, project, cow)
            fcntl.ioctl(descriptor, _SET_ATTRIBUTES, changed)
        data = encode_limit(project, quota)
        _quotactl(descriptor, _SET_LIMIT, project, ctypes.create_string_buffer(data, len(data)))


def encode_limit(project: int, quota: int) -> bytes:
    """Return the kernel's `struct fs_disk_quota` that limits a project to `quota` bytes, rounded up to whole sectors."""
    sectors = -(-quota // _SECTOR)
    return _LIMITS.pack(1, _PROJECTS, _HARD_BLOCKS, project, sectors, *([0] * 19))


def used_of_project(folder: Path) -> int:
    """Return the bytes a project's files take. Raises OSError."""
    answer = ctypes.create_string_buffer(_LIMITS.size)
    with _opened(folder) as descriptor:
        project = os.fstat(descriptor).st_ino & 0xFFFFFFFF
        try:
            _quotactl(descriptor, _GET, project, answer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                return 0
            raise
    return int(_LIMITS.unpack(answer.raw)[8]) * _SECTOR


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _quotactl(descriptor: int, verb: int, project: int, data: ctypes.Array[ctypes.c_char]) -> None:
    command = ctypes.c_uint(verb << 8 | _PROJECTS)
    if _LIBC.syscall(_SYS_QUOTACTL_FD, ctypes.c_uint(descriptor), command, ctypes.c_uint(project), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"quotactl: {os.strerror(number)}")
