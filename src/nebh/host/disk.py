"""What Python does not offer of the file system calls."""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)


def sync_filesystem(descriptor: int) -> None:
    """Bring everything written to the file system of `descriptor` to the disk (syncfs). Raises OSError."""
    if _LIBC.syncfs(ctypes.c_int(descriptor)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"syncfs: {os.strerror(number)}")


def exchange_names(one: os.PathLike[str], other: os.PathLike[str]) -> None:
    """Let two names of one file system change places in one step. Raises OSError (EINVAL: it cannot do that)."""
    at, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if _LIBC.renameat2(at, os.fsencode(one), at, os.fsencode(other), ctypes.c_uint(flag)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(one))


def free_bytes(path: os.PathLike[str]) -> int:
    """Return what an unprivileged user may still write on the file system of `path`."""
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def room_of(path: os.PathLike[str]) -> tuple[int, int]:
    """Return (bytes that ordinary users may have, those of them that are free) of the file system of `path`."""
    state = os.statvfs(path)
    free = state.f_bavail * state.f_frsize
    return (state.f_blocks - state.f_bfree) * state.f_frsize + free, free


def is_volatile(path: os.PathLike[str]) -> bool:
    """Tell whether `path` is on a tmpfs or ramfs, which a reboot empties."""
    return filesystem_kind(path) in {"tmpfs", "ramfs"}


def filesystem_kind(path: os.PathLike[str]) -> str:
    """Return the kind of file system that `path` is on, such as ext4."""
    real = os.path.realpath(path)
    found = ("", "")
    with open("/proc/self/mounts", encoding="utf-8") as file:  # noqa: PTH123 - one line of kernel text
        for line in file:
            _, point, kind, *_ = line.split()
            point = point.replace("\\040", " ")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(found[0]):
                found = (point, kind)
    return found[1]
