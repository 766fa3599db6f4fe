"""The confinement of `nebh-agent` and `nebh-controller` where no systemd does it: what their units say, by hand.

A private mount namespace, read-only but for the program's own folders, its own /tmp and a /dev of five devices, nothing
of people's homes; then an ordinary user without capabilities, no_new_privs, and the seccomp list of the units.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nebh.host import seccomp
from nebh.host.namespaces import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    become_user,
    change_mount,
    forbid_new_privileges,
    mount,
    move_mount,
    open_tree,
    private_mounts,
)
from nebh.host.program_tree import ProgramTree, unreachable_for_others

_DEVICES = ("null", "zero", "full", "random", "urandom")
_HOMES = (Path("/root"), Path("/home"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """uid, gid: whom the program runs as. writable: its own folders, which exist. visible: folders of ours that stay
    where they are even in /tmp or somebody's home. covers: (folder, place): folders
    that this user could not reach, shown read-only at empty folders that it can."""

    uid: int
    gid: int
    writable: tuple[Path, ...]
    visible: tuple[Path, ...] = ()
    covers: tuple[tuple[Path, Path], ...] = ()

    def enter(self) -> None:
        """Confine this single-threaded root process for good. Raises OSError."""
        code = seccomp.build_filter(os.uname().machine)
        private_mounts()
        mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)  # what the host mounts later does not arrive here
        programs = [(open_tree(source), place) for source, place in self.covers]
        _replace_devices()
        for folder in (*_HOMES, *_TEMPORARY):
            if folder.is_dir():
                self._replace(folder)
        for folder in self.writable:
            mount(str(folder), folder, flags=MS_BIND | MS_REC)
        for descriptor, place in programs:
            move_mount(descriptor, place)
            os.close(descriptor)
        change_mount(Path("/"), add=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, recursive=True)
        for place in (*self.writable, *(folder for folder in _TEMPORARY if folder.is_dir())):
            change_mount(place, add=MOUNT_ATTR_NODEV, drop=MOUNT_ATTR_RDONLY)
        os.umask(0o077)
        os.chdir("/")
        become_user(uid=self.uid, gid=self.gid)
        forbid_new_privileges()
        seccomp.install_filter(code)

    def _replace(self, folder: Path) -> None:
        """Cover a folder by an empty one that shows, of what was in it, only our own."""
        kept = [(open_tree(one), one) for one in self.visible if one.is_relative_to(folder)]
        mode = "1777" if folder in _TEMPORARY else "755"
        mount("tmpfs", folder, kind="tmpfs", flags=MS_NOSUID | MS_NODEV, data=f"mode={mode},size=256m")
        for descriptor, place in kept:
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            move_mount(descriptor, place)
            os.close(descriptor)


def _replace_devices() -> None:
    """Cover /dev by a folder with five devices. Opened before, a descriptor of a device stays valid."""
    dev = Path("/dev")
    opened = [(open_tree(dev / name), name) for name in _DEVICES]
    mount("tmpfs", dev, kind="tmpfs", flags=MS_NOSUID | MS_NOEXEC, data="mode=755,size=64k")
    for descriptor, name in opened:
        (dev / name).touch()
        move_mount(descriptor, dev / name)
        os.close(descriptor)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(target)
    (dev / "shm").mkdir(mode=0o1777)


def reachable_tree(tree: ProgramTree, places: Path) -> tuple[ProgramTree, tuple[tuple[Path, Path], ...]]:
    """Return the tree as an ordinary user should use it, and the covers it needs: what that user cannot reach (a
    checkout in /root) is shown below `places`, where empty folders are made for it."""
    covers: dict[Path, Path] = {}

    def shown(path: Path) -> Path:
        if unreachable_for_others(path) is None:
            return path
        if path not in covers:
            covers[path] = places / f"{len(covers)}"
        return covers[path]

    prefix = shown(tree.prefix)
    paths = tuple(_moved(path, tree.prefix, prefix) or shown(path) for path in tree.paths)
    python = _moved(tree.python, tree.prefix, prefix) or tree.python
    for place in covers.values():
        _make(place)
    return ProgramTree(prefix=prefix, python=python, paths=paths), tuple(covers.items())


def _moved(path: Path, old: Path, new: Path) -> Path | None:
    return new / path.relative_to(old) if path.is_relative_to(old) else None


def _make(place: Path) -> None:
    place.mkdir(mode=0o755, parents=True, exist_ok=True)


def check_reachable(folders: Iterable[Path]) -> tuple[str, ...]:
    """Return one sentence for every folder that an ordinary user of ours could not reach."""
    blocks = ((folder, unreachable_for_others(folder)) for folder in folders)
    return tuple(f"{folder} lies below {block}, which other users may not pass" for folder, block in blocks if block)
