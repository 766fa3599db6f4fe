"""What every volume driver does. Every verb may be repeated: doing it twice is doing it once.

A volume is a folder on the host that containers get bound. Whoever runs there writes what it likes: no driver follows
its links, runs anything of it, or trusts a name in it. Nobody writes to a volume while it is restored or cloned; while
it is snapshotted nobody may write either, unless the driver has Ability.LIVE.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from nebh.model.errors import Failed, NebhError
from nebh.model.stored import Ability, StorageRoom, StoredChange, StoredFile, StoredVolume, VolumePlan, VolumeUsage

POINTS: tuple[str, ...] = (
    "volume.make.staged",
    "volume.remove.named",
    "volume.snapshot.begun",
    "volume.snapshot.copied",
    "volume.restore.begun",
    "volume.restore.copied",
    "volume.restore.exchanged",
    "volume.restore.kept",
    "volume.clone.staged",
    "volume.receive.filled",
    "volume.copy.file",
)
"""Fault points of the drivers that keep volumes in folders; the last is passed with every file that is copied."""


class OutOfSpace(Failed):
    """The storage, or the volume's quota, has no room for it. What was there is untouched."""


class StorageGone(Failed):
    """The storage does not answer, or only with errors: a device that is away, a file system that stopped writing."""


class Unable(Failed):
    """This kind of storage cannot do that."""


class VolumeDriver(Protocol):
    """Keeps volumes. Errors: BadInput for a name that cannot be one, NotFound for what is not there, Conflict for a
    name that is taken, OutOfSpace, StorageGone, Unable, else Failed. Files: durable on return, always."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """What this storage can do."""
        ...

    def open(self) -> None:
        """Make the storage ready and finish what a crash interrupted. To be called before all else, and again after
        StorageGone."""
        ...

    def check(self) -> None:
        """Raise StorageGone when the storage is not usable now, OutOfSpace when it is full. Cheap."""
        ...

    def upkeep(self) -> None:
        """Grow what may grow, remove what is on its way out. To be called every few seconds."""
        ...

    def make(self, plan: VolumePlan) -> Path:
        """Make an empty volume and return its folder. One that is there keeps its content and owner and gets the
        plan's quota."""
        ...

    def remove(self, volume: str) -> None:
        """Remove a volume and its snapshots for ever; an absent one is fine."""
        ...

    def path(self, volume: str) -> Path:
        """Return the folder to bind into a container. It is another folder after a restore."""
        ...

    def snapshot_path(self, volume: str, snapshot: str) -> Path:
        """Return the folder of a snapshot, to be read only. Raises Unable without Ability.BROWSE."""
        ...

    def snapshot(self, volume: str, snapshot: str) -> None:
        """Keep the volume's state of now. A snapshot of that name stays as it is."""
        ...

    def restore(self, volume: str, snapshot: str, *, keep_as: str) -> None:
        """Bring a snapshot's state back; what it replaces becomes the snapshot `keep_as`.

        Whatever ends this, at whatever instant, the volume holds the one or the other, whole; repeating the call
        finishes it, also when the snapshot or `keep_as` was deleted since. The snapshot stays.
        """
        ...

    def receive(self, volume: str, snapshot: str, fill: Callable[[Path], None]) -> None:
        """Make a snapshot of what `fill` makes at the path it is given, a folder that is not there yet. It appears in one
        step; one of that name stays as it is. Raises Unable where snapshots cannot come from elsewhere."""
        ...

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        """Remove a snapshot; an absent one is fine."""
        ...

    def list(self) -> tuple[StoredVolume, ...]:
        """Return what is found, by name."""
        ...

    def clone(self, volume: str, *, snapshot: str = "", to: VolumePlan) -> Path:
        """Make a new volume with the state of a snapshot, or of now; return its folder. The plan's owner is not used.
        Raises Conflict for a volume `to` that is not this clone."""
        ...

    def usage(self, volume: str) -> VolumeUsage:
        """Say what it holds."""
        ...

    def room(self) -> StorageRoom:
        """Say how full the storage is that all volumes share."""
        ...

    def resize(self, volume: str, quota: int) -> None:
        """Set the quota, in bytes, 0 = none. One below what is held refuses further writes."""
        ...

    def files(self, volume: str, *, snapshot: str = "", limit: int = 10_000) -> tuple[StoredFile, ...]:
        """List at most `limit` names of a snapshot, or of now, folders before what is in them."""
        ...

    def diff(
        self, volume: str, *, older: str, newer: str = "", limit: int = 10_000, contents: bool = False
    ) -> tuple[StoredChange, ...]:
        """Return at most `limit` paths that differ between two snapshots, or between one and now. A file counts as
        the same when size, time, mode and owner are; with `contents`, its bytes too."""
        ...


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_GONE = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN, errno.ESTALE, errno.EUCLEAN})


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Turn OSError into this package's errors. what: "restore volume db.data.0"."""
    try:
        yield
    except NebhError:
        raise
    except OSError as error:
        raise explain(what, error) from error


def explain(what: str, error: OSError) -> NebhError:
    """Return the error that says `what` could not be done because of `error`."""
    if error.errno == errno.EDQUOT:
        return OutOfSpace(f"cannot {what}: its quota is used up", hint="give the volume a larger size")
    if error.errno in _FULL:
        return OutOfSpace(
            f"cannot {what}: the storage is full", hint="delete snapshots, or give the pool of volumes more room"
        )
    if error.errno in _GONE:
        return StorageGone(
            f"cannot {what}: the storage answers with an error: {error.strerror}",
            hint="look at the disk (dmesg, smartctl); it is tried again by itself",
        )
    return Failed(f"cannot {what}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else ""))
