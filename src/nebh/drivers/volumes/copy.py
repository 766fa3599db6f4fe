"""Volumes on any file system: a snapshot is a copy, of all bytes or, where blocks can be shared (XFS, btrfs), of none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nebh.drivers.volumes.base import Unable
from nebh.drivers.volumes.folders import FolderVolumes, settle_names
from nebh.host.disk import free_bytes
from nebh.host.project_quota import enforces_projects, limit_folder, used_of_project
from nebh.host.trees import copy_tree, measure, remove_tree
from nebh.model.stored import Ability, VolumeUsage

_PART = "part"


class CopyKeeper:
    """See folders.Keeper. clone: share blocks with the original."""

    def __init__(self, *, clone: bool) -> None:
        self.abilities: frozenset[Ability] = frozenset()
        self._clone = clone

    def open(self, root: Path) -> None:
        """Find out what the file system can do. Raises Unable where it cannot share blocks."""
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.abilities = frozenset({Ability.QUOTA} if enforces_projects(root) else {})
        if self._clone and not shares_blocks(root):
            raise Unable(
                f"cannot keep volumes by reflink in {root}: its file system cannot share blocks between files",
                hint="use XFS with reflink=1 or btrfs, or the driver `copy`",
            )

    def check(self, root: Path) -> None:
        """As promised by the contract."""
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, "the file system became read-only")
        if not free_bytes(root):
            raise OSError(errno.ENOSPC, "no space is left")

    def upkeep(self, root: Path) -> None:
        """Nothing grows here."""

    def make(self, wrap: Path) -> None:
        """As promised by the contract."""
        (wrap / "data").mkdir()

    def duplicate(self, source: Path, wrap: Path, *, quota: int, sealed: bool) -> None:
        """As promised by the contract."""
        part = wrap / _PART
        part.mkdir(mode=0o700)
        if Ability.QUOTA in self.abilities and not sealed:
            limit_folder(part, quota)
        copy_tree(source, part, clone=self._clone)
        part.rename(wrap / "data")
        settle_names(wrap, wrap.parent)

    def seal(self, wrap: Path) -> None:
        """A folder has no seal; nobody gets this one but to read."""

    def limit(self, wrap: Path, quota: int) -> None:
        """As promised by the contract."""
        if Ability.QUOTA in self.abilities:
            limit_folder(wrap / "data", quota)

    def discard(self, wrap: Path) -> None:
        """As promised by the contract."""
        remove_tree(wrap)

    def settle(self, *folders: Path) -> None:
        """As promised by the contract."""
        settle_names(*folders)

    def growth(self) -> int:
        """Nothing grows here."""
        return 0

    def usage(self, wrap: Path, kept: dict[str, Path], *, quota: int) -> VolumeUsage:
        """As promised by the contract."""
        data = wrap / "data"
        used = used_of_project(data) if Ability.QUOTA in self.abilities else measure(data)
        exclusive = None if self._clone else {name: measure(path / "data") for name, path in kept.items()}
        return VolumeUsage(used=used, quota=quota, free=free_bytes(wrap), exclusive=exclusive)


def shares_blocks(root: Path) -> bool:
    """Tell, by trying, whether files in the folder `root` can share their blocks. Raises OSError."""
    first, second = root / ".clone-of", root / ".clone"
    try:
        remove_tree(second)  # some crash's
        first.mkdir(exist_ok=True)
        (first / "file").write_bytes(b"x")
        copy_tree(first, second, clone=True)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV):
            raise
        return False
    else:
        return True
    finally:
        remove_tree(first)
        remove_tree(second)


def copy_volumes(root: Path) -> FolderVolumes:
    """Return the driver whose snapshots are whole copies. root: a folder of ours alone."""
    return FolderVolumes(root, CopyKeeper(clone=False))


def reflink_volumes(root: Path) -> FolderVolumes:
    """Return the driver whose snapshots share their blocks. root: a folder of ours alone, on XFS or btrfs."""
    return FolderVolumes(root, CopyKeeper(clone=True))
