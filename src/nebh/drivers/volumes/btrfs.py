"""Volumes as btrfs subvolumes: a snapshot or restore takes a commit, whatever the volume's size."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from nebh.drivers.volumes import btrfs_calls as calls
from nebh.drivers.volumes.base import Unable
from nebh.drivers.volumes.folders import FolderVolumes
from nebh.drivers.volumes.pool import BtrfsPool
from nebh.host.disk import free_bytes
from nebh.host.trees import remove_tree
from nebh.model.stored import Ability, VolumeUsage

_STRAY = 1 << 16
"""What a subvolume may hold that a program made inside its volume. It would not count for the volume's quota, and no
snapshot would hold it."""
_FULL = 16 << 20


class BtrfsKeeper:
    """See folders.Keeper. pool: what holds the root, None for a btrfs of somebody else; quotas are switched on in a
    pool of ours only, for they cost everybody on that file system."""

    def __init__(self, pool: BtrfsPool | None = None) -> None:
        self.abilities: frozenset[Ability] = frozenset({Ability.LIVE})
        self._pool = pool
        self._root = Path()

    def open(self, root: Path) -> None:
        """Bring the pool up. Raises Unable where the root is on no btrfs."""
        self._root = root
        if self._pool is not None:
            self._pool.open()
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            if self._pool is not None:
                calls.enable_quotas(root)
            with calls.opened(root) as pool:
                counted = bool(calls.read_counts(pool))
                if counted and calls.counts_are_wrong(pool):
                    self._count_again(pool)
        except OSError as error:
            if error.errno == errno.ENOTTY:
                raise Unable(
                    f"cannot keep volumes as subvolumes in {root}: it is on no btrfs", hint="use the driver `copy`"
                ) from error
            if error.errno != errno.ENOENT:
                raise
            counted = False
        more = {Ability.QUOTA, Ability.EXCLUSIVE} if counted else set()
        self.abilities = frozenset({Ability.LIVE, *more})

    def _count_again(self, pool: int) -> None:
        with contextlib.suppress(OSError):  # it is at it
            calls.count_again(pool)

    def check(self, root: Path) -> None:
        """As promised by the contract."""
        if self._pool is not None:
            self._pool.check()
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, "the file system became read-only")
        if free_bytes(root) < _FULL and not (self._pool is not None and self._pool.may_grow()):
            raise OSError(errno.ENOSPC, "no space is left")

    def upkeep(self, root: Path) -> None:
        """Grow the pool, forget counts of what is gone, bound what programs made inside their volumes."""
        if self._pool is not None:
            self._pool.grow()
        if Ability.QUOTA not in self.abilities:
            return
        with calls.opened(root) as pool:
            there = calls.read_subvolumes(pool)
            for number in calls.read_counts(pool):
                if number >> 48 == 0 and number >= 256 and number not in there:
                    with contextlib.suppress(OSError):  # it still counts what is being removed
                        calls.forget_count(pool, number)
            top = calls.subvolume_id(root)
            for parent, strays in calls.read_inside(pool).items():
                if parent != top:
                    for one in strays:
                        calls.limit_by_id(pool, one.number, _STRAY)
            if calls.counts_are_wrong(pool):
                self._count_again(pool)

    def make(self, wrap: Path) -> None:
        """As promised by the contract."""
        self._make_room()
        calls.create_subvolume(wrap, "data")

    def duplicate(self, source: Path, wrap: Path, *, quota: int, sealed: bool) -> None:
        """As promised by the contract."""
        self._make_room()
        calls.create_snapshot(source, wrap, "data", read_only=sealed)
        if not sealed:
            self.limit(wrap, quota)

    def _make_room(self) -> None:
        if self._pool is not None:
            self._pool.grow()

    def seal(self, wrap: Path) -> None:
        """As promised by the contract."""
        calls.seal_subvolume(wrap / "data")

    def limit(self, wrap: Path, quota: int) -> None:
        """As promised by the contract."""
        if Ability.QUOTA in self.abilities:
            calls.limit_subvolume(wrap / "data", quota)

    def discard(self, wrap: Path) -> None:
        """As promised by the contract."""
        data = wrap / "data"
        if data.is_dir() and not data.is_symlink() and calls.is_subvolume(data):
            with calls.opened(self._root) as pool:
                inside = calls.read_inside(pool)
                top = calls.subvolume_id(data)
                if inside.get(top):
                    calls.unseal_all(data, top, inside)
                for number in reversed((top, *_all_inside(top, inside))):
                    calls.destroy_subvolume(pool, number)
        remove_tree(wrap)
        calls.sync_pool(self._root)  # else what it held would come free in half a minute only

    def settle(self, *folders: Path) -> None:
        """As promised by the contract: a commit, for what fsync writes of folders that hold subvolumes is not much
        less."""
        calls.sync_pool(folders[0])

    def growth(self) -> int:
        """As promised by the contract."""
        return self._pool.growth() if self._pool is not None else 0

    def usage(self, wrap: Path, kept: dict[str, Path], *, quota: int) -> VolumeUsage:
        """As promised by the contract, as of now: it commits."""
        calls.sync_pool(wrap)
        number = calls.subvolume_id(wrap / "data")
        with calls.opened(wrap) as pool:
            counts = calls.read_counts(pool) if Ability.QUOTA in self.abilities else {}
            inside = calls.read_inside(pool)
        held = counts.get(number)
        exclusive = {name: found for name, path in kept.items() if (found := _exclusive(path, counts)) is not None}
        return VolumeUsage(
            used=held.referenced if held is not None else -1,
            quota=quota,
            free=free_bytes(wrap),
            exclusive=exclusive if counts else None,
            strays=len(_all_inside(number, inside)),
        )


def _exclusive(wrap: Path, counts: dict[int, calls.Held]) -> int | None:
    held = counts.get(calls.subvolume_id(wrap / "data"))
    return held.exclusive if held is not None else None


def _all_inside(top: int, inside: dict[int, list[calls.Inside]]) -> tuple[int, ...]:
    """Return the subvolumes that programs made inside one, each before those inside it."""
    found, queue = [], [top]
    while queue:
        more = [one.number for one in inside.get(queue.pop(), ())]
        found += more
        queue += more
    return tuple(found)


def btrfs_volumes(root: Path, *, pool: BtrfsPool | None = None) -> FolderVolumes:
    """Return the driver whose volumes are subvolumes. root: a folder of ours alone on a btrfs, the pool's where there
    is one."""
    return FolderVolumes(root, BtrfsKeeper(pool))
