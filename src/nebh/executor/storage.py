"""Where this node keeps volumes: chosen once, made when the first volume is, found again after every start."""

from __future__ import annotations

import contextlib
import errno
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nebh.drivers.volumes.base import StorageGone, Unable, VolumeDriver
from nebh.drivers.volumes.btrfs import btrfs_volumes
from nebh.drivers.volumes.command import CommandVolumes, commands_of
from nebh.drivers.volumes.copy import copy_volumes, reflink_volumes
from nebh.drivers.volumes.pool import BtrfsPool, PoolPlan, find_lack
from nebh.executor.context import Context
from nebh.host.disk import filesystem_kind
from nebh.host.files import read_bounded, write_atomic
from nebh.host.launcher import show_mount
from nebh.host.layout import Layout
from nebh.host.worker import Worker
from nebh.model.errors import BadInput, NebhError
from nebh.model.event import Severity
from nebh.model.local import StorageConfig

KINDS: Final = ("btrfs", "pool", "reflink", "copy", "command")
"""btrfs: subvolumes of the file system that the state is on; pool: of a btrfs of our own."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A kind of storage and its driver. pool: the folder that has to be shown to the launcher as well, None = none."""

    kind: str
    driver: VolumeDriver
    pool: PoolPlan | None = None


def choose(config: StorageConfig, layout: Layout) -> Chosen:
    """Return the storage that node.json asks for; `auto`: what was used here before, else the best that this machine
    has. Raises BadInput."""
    used = _remembered(layout)
    kind = config.driver if config.driver != "auto" else used or _best(config, layout)
    if kind not in KINDS:
        raise BadInput(
            f"cannot keep volumes by {kind!r}", hint=f"`storage.driver` in node.json: auto, {', '.join(KINDS)}"
        )
    if used and kind != used:
        raise BadInput(
            f"cannot keep volumes by {kind}: there are volumes here kept by {used}",
            hint=f"set `storage.driver` in node.json back to {used}, or move the data first",
        )
    plan = _pool_plan(config, layout)
    match kind:
        case "pool":
            return Chosen(kind=kind, driver=btrfs_volumes(plan.mount / "volumes", pool=BtrfsPool(plan)), pool=plan)
        case "btrfs":
            return Chosen(kind=kind, driver=btrfs_volumes(layout.volumes / "btrfs"))
        case "reflink":
            return Chosen(kind=kind, driver=reflink_volumes(layout.volumes / "reflink"))
        case "command":
            return Chosen(kind=kind, driver=CommandVolumes(commands_of(dict(config.commands))))
        case _:
            return Chosen(kind=kind, driver=copy_volumes(layout.volumes / "copy"))


def _pool_plan(config: StorageConfig, layout: Layout) -> PoolPlan:
    return PoolPlan(
        mount=layout.volumes / "pool",
        device=Path(config.device) if config.device else None,
        file=layout.volumes / "pool.btrfs",
        size=config.size,
        most=config.most,
    )


def _best(config: StorageConfig, layout: Layout) -> str:
    if config.device:
        return "pool"
    if filesystem_kind(layout.state) == "btrfs":
        return "btrfs"
    if not find_lack(_pool_plan(config, layout)):
        return "pool"
    with contextlib.suppress(Unable, OSError):
        reflink_volumes(layout.volumes / "reflink").open()
        return "reflink"
    return "copy"


def _marker(layout: Layout) -> Path:
    return layout.volumes / "driver"


def _remembered(layout: Layout) -> str:
    try:
        return read_bounded(_marker(layout), limit=64).decode("ascii", "replace").strip()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise BadInput(f"cannot read {_marker(layout)}: {error.strerror}") from error
        return ""


class Storage:
    """Brings the storage up before it is used, and again after it was gone."""

    def __init__(self, chosen: Chosen, *, layout: Layout, launcher: Worker | None) -> None:
        """launcher: what starts containers, in a mount namespace of its own; None where nothing is mounted."""
        self.chosen = chosen
        self._layout = layout
        self._launcher = launcher
        self._lock = threading.Lock()
        self._up = False

    def ensure(self) -> None:
        """Have it ready. Raises what the driver says."""
        with self._lock:
            if self._up:
                return
            self._layout.volumes.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.chosen.driver.open()
            if not _remembered(self._layout):
                write_atomic(_marker(self._layout), f"{self.chosen.kind}\n".encode(), mode=0o600)
            pool = self.chosen.pool
            if pool is not None and self._launcher is not None:
                show_mount(self._launcher, pool.mount)
            self._up = True

    def look(self) -> str:
        """Do what is due every few seconds; return why the storage cannot be used, "" = it can, or nobody has yet."""
        if not self._up:
            return ""
        try:
            self.chosen.driver.check()
            self.chosen.driver.upkeep()
        except StorageGone as error:
            self._up = False
            return error.message
        except NebhError as error:
            return error.message
        return ""


def open_storage(context: Context) -> None:
    """At the start: where there are volumes, have them ready. What fails is said, and does not hold other services."""
    if not context.volumes.volumes():
        return
    try:
        context.storage()
    except (NebhError, OSError) as error:
        context.tell(
            "storage.gone",
            f"the storage of volumes cannot be used: {error}",
            severity=Severity.ALARM,
            hint="services with data wait for it; it is tried again",
        )
