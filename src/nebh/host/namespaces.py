"""System calls that Python 3.11 has no name for: namespaces, mounts, capabilities. Each raises OSError."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x00100000

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442  # the same on every architecture of ours
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 1, 8, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522

CAP_NUMBERS = {"CAP_KILL": 5, "CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_NEW* flags for new ones. A new user namespace needs a single thread."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int = 0) -> None:
    """Enter the namespace `descriptor` refers to; `kind` 0 accepts any."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: Path, *, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system or a bind at `target`; flags are MS_*."""
    _checked(
        _libc.mount(
            source.encode(),
            os.fsencode(target),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        f"mount {target}",
    )


def unmount(target: Path) -> None:
    """Detach the mount at `target` lazily."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def private_mounts() -> None:
    """Give this process a mount namespace of its own: nothing of it reaches the host's; what the host mounts or
    unmounts later arrives here."""
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), flags=MS_REC | MS_SLAVE)


def open_tree(path: Path) -> int:
    """Return a descriptor of a detached copy of the mount at `path`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _checked(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"open_tree {path}")


def mount_setattr(descriptor: int, *, attributes: int, userns: int = -1) -> None:
    """Set MOUNT_ATTR_* on a detached mount; with `userns` (a descriptor) its ids are mapped through that."""
    if userns >= 0:
        attributes |= MOUNT_ATTR_IDMAP
    value = struct.pack("=QQQQ", attributes, 0, 0, max(userns, 0))
    _checked(
        _libc.syscall(_SYS_MOUNT_SETATTR, descriptor, b"", _AT_EMPTY_PATH, value, len(value)),
        "mount_setattr",
    )


def change_mount(path: Path, *, add: int = 0, drop: int = 0, recursive: bool = False) -> None:
    """Set and clear MOUNT_ATTR_* of the mount at `path`, with `recursive` of every mount below it too."""
    value = struct.pack("=QQQQ", add, drop, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _checked(
        _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, value, len(value)),
        f"mount_setattr {path}",
    )


def move_mount(descriptor: int, target: Path) -> None:
    """Attach a detached mount at `target`."""
    _checked(
        _libc.syscall(_SYS_MOVE_MOUNT, descriptor, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH),
        f"move_mount {target}",
    )


def bind_idmapped(source: Path, target: Path, *, userns: int) -> None:
    """Show `source` at `target` read-only, without devices or setuid, its ids mapped through `userns`."""
    tree = open_tree(source)
    try:
        mount_setattr(tree, attributes=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, userns=userns)
        move_mount(tree, target)
    finally:
        os.close(tree)


def show_link(link: Path, *, root: Path, place: str) -> None:
    """Show the symbolic link `link` itself, not what it leads to, in the place of the file `place` (absolute) below
    `root`. No link is followed on the way there."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    *parents, name = place.strip("/").split("/")
    folder = os.open(root, flags | os.O_DIRECTORY)
    try:
        for part in parents:
            inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        clone = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_SYMLINK_NOFOLLOW
        tree = _checked(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(link), clone), f"open_tree {link}")
        try:
            where = (folder, os.fsencode(name), _MOVE_MOUNT_F_EMPTY_PATH)
            _checked(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", *where), f"move_mount {place}")
        finally:
            os.close(tree)
    finally:
        os.close(folder)


def make_userns(*, base: int, size: int) -> int:
    """Return a descriptor of a new user namespace in which 0..size-1 are the host's base..base+size-1.

    Call it in a single-threaded process: it forks a child that holds the namespace for a moment.
    """
    ready, go = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            die_with_parent()
            unshare(CLONE_NEWUSER)
            os.write(ready[1], b"1")
            os.close(go[1])
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        if os.read(ready[0], 1) != b"1":
            raise OSError("this kernel allows no user namespace")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text(f"0 {base} {size}\n", encoding="ascii")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (ready[0], go[0], go[1]):
            os.close(descriptor)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def bind_readonly(path: Path) -> None:
    """Cover `path` by a read-only view of itself. Its device files still work; nobody changes their owner or mode."""
    tree = open_tree(path)
    try:
        mount_setattr(tree, attributes=MOUNT_ATTR_RDONLY)
        move_mount(tree, path)
    finally:
        os.close(tree)


def prctl(option: int, *arguments: int) -> int:
    """Change what the kernel does with this process (prctl(2)); missing arguments are 0."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)), f"prctl {option}")


def die_with_parent(*, parent: int = 0) -> None:
    """Have SIGKILL sent to this process when the thread that forked it ends.

    parent: its pid as taken before the fork; if it has died meanwhile, this process ends at once.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:
        os._exit(0)


def become_subreaper() -> None:
    """Make orphans below this process its children, so that it can reap them."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Set no_new_privs: no exec from here on gives more than this process has."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become_user(*, uid: int, gid: int, capabilities: tuple[str, ...] = ()) -> None:
    """Turn this (single-threaded, root) process into an ordinary one that keeps exactly `capabilities`, ambient and
    bounding. Raises KeyError for a name that is not in CAP_NUMBERS."""
    kept = {CAP_NUMBERS[name] for name in capabilities}
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for number in range(last + 1):
        if number not in kept:
            prctl(_PR_CAPBSET_DROP, number)
    prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _capset(kept)
    for number in kept:
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def _capset(numbers: set[int]) -> None:
    bits = sum(1 << number for number in numbers)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = ctypes.create_string_buffer(struct.pack("=II", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, low, high, high, high))
    _checked(_libc.capset(header, data), "capset")
