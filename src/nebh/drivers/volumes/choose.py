"""Which storage a node's volumes lie on. What is there decides first: a node never changes its storage by itself."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nebh.drivers.volumes import btrfs_calls as calls
from nebh.drivers.volumes.base import VolumeDriver
from nebh.drivers.volumes.btrfs import btrfs_volumes
from nebh.drivers.volumes.command import CommandVolumes, StorageCommands
from nebh.drivers.volumes.copy import copy_volumes, reflink_volumes, shares_blocks
from nebh.drivers.volumes.pool import BtrfsPool, PoolPlan, find_lack
from nebh.model.errors import BadInput


class StorageKind(StrEnum):
    """auto: btrfs where the folder is on one, reflink where its file system can, else a pool of our own, else copies."""

    AUTO = "auto"
    POOL = "pool"
    BTRFS = "btrfs"
    REFLINK = "reflink"
    COPY = "copy"
    COMMANDS = "commands"


@dataclass(frozen=True, kw_only=True)
class StorageWish:
    """kind: see StorageKind. device: a block device of our own, for a pool. size, most, spare: of a pool in a file, as
    in PoolPlan. commands: with kind `commands`."""

    kind: StorageKind = StorageKind.AUTO
    device: Path | None = None
    size: int = 1 << 30
    most: int = 1 << 40
    spare: int = 512 << 20
    commands: StorageCommands | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A driver that is not opened yet, and why it is this one."""

    driver: VolumeDriver
    kind: StorageKind
    reason: str


def choose_storage(folder: Path, wish: StorageWish) -> Chosen:
    """Return the storage for volumes in `folder`, a folder of ours alone, made when it is not there. Raises BadInput
    for a wish that cannot be, OSError."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    kind, reason = wish.kind, "it was asked for"
    plan = PoolPlan(
        mount=folder / "pool",
        device=wish.device,
        file=folder / "pool.btrfs",
        size=wish.size,
        most=wish.most,
        spare=wish.spare,
    )
    if kind is StorageKind.AUTO:
        kind, reason = _find_kind(folder, plan)
    root = folder / "volumes"
    if kind is StorageKind.COMMANDS:
        if wish.commands is None:
            raise BadInput("cannot keep volumes by commands: none are declared")
        return Chosen(driver=CommandVolumes(wish.commands), kind=kind, reason=reason)
    if kind is StorageKind.POOL:
        if lack := find_lack(plan):
            raise BadInput(f"cannot keep volumes in a pool of btrfs: {lack}", hint="Debian: btrfs-progs")
        return Chosen(driver=btrfs_volumes(plan.mount / "volumes", pool=BtrfsPool(plan)), kind=kind, reason=reason)
    makers = {StorageKind.BTRFS: btrfs_volumes, StorageKind.REFLINK: reflink_volumes, StorageKind.COPY: copy_volumes}
    return Chosen(driver=makers[kind](root), kind=kind, reason=reason)


def _find_kind(folder: Path, plan: PoolPlan) -> tuple[StorageKind, str]:
    if plan.device is not None:
        return StorageKind.POOL, f"{plan.device} is declared for it"
    if plan.file.exists():
        return StorageKind.POOL, f"there is {plan.file}"
    if _on_btrfs(folder):
        return StorageKind.BTRFS, f"{folder} is on a btrfs"
    if shares_blocks(folder):
        return StorageKind.REFLINK, f"the file system of {folder} can share blocks"
    if any(not path.name.startswith(".") for path in _entries(folder / "volumes")):
        return StorageKind.COPY, f"there are volumes in {folder / 'volumes'}"
    if lack := find_lack(plan):
        return StorageKind.COPY, f"no pool can be made: {lack}"
    return StorageKind.POOL, f"the file system of {folder} has no snapshots"


def _entries(folder: Path) -> tuple[Path, ...]:
    return tuple(folder.iterdir()) if folder.is_dir() else ()


def _on_btrfs(folder: Path) -> bool:
    try:
        calls.subvolume_id(folder)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
            return False
        raise
    return True
