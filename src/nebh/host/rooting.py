"""Make the root folder of this process the root of a mount namespace of its own.

In a chroot the kernel refuses new user namespaces (EPERM) and propagation changes of "/" (EINVAL), and containers need
both. The way out keeps the view: same files below the same paths, only that "/" is a mount and the namespace's own.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NoReturn

from nebh.host.namespaces import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_REC,
    MS_SLAVE,
    _checked,
    mount,
    setns,
    unmount,
    unshare,
)

_libc = ctypes.CDLL(None, use_errno=True)


def is_chrooted() -> bool:
    """Tell whether the root of this (single-threaded, root) process is not that of its mount namespace: the kernel
    then refuses user namespaces."""
    child = os.fork()
    if child == 0:
        try:
            unshare(CLONE_NEWUSER)
        except PermissionError:
            os._exit(1)
        except OSError:
            os._exit(0)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def settle_root() -> None:
    """Move this single-threaded process into a mount namespace whose root is what "/" is now. Raises OSError."""
    folder = Path.cwd()
    unshare(CLONE_NEWNS)  # before the next line: a descriptor stays with the namespace it was opened in
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(own, CLONE_NEWNS)  # entering a mount namespace, even one's own, leads out of a chroot
        finally:
            os.close(own)
        mount("none", Path("/"), flags=MS_REC | MS_SLAVE)
        os.fchdir(root)
        path = Path.cwd()
        mount(str(path), path, flags=MS_BIND | MS_REC)
        os.chdir(path)
        _checked(_libc.pivot_root(b".", b"."), "pivot_root")  # the old root is now stacked on the new one ...
        unmount(Path())  # ... and goes
        os.chdir(folder)
    finally:
        os.close(root)


def leave_chroot() -> None:
    """Settle the root if this single-threaded process is root in a chroot; otherwise do nothing. Raises OSError."""
    if os.geteuid() == 0 and is_chrooted():
        settle_root()


def become_settled(argv: tuple[str, ...]) -> NoReturn:
    """Become the program `argv` (searched in PATH, environment kept), out of a chroot first."""
    leave_chroot()
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point
