"""Volumes: named data that one allocation on one node owns, and what an update does with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class VolumeClass(StrEnum):
    """What becomes of a volume's data.

    state: snapshot at every release, goes back with it. shared-state: snapshot at every release, stays when it goes
    back. cache: never copied, may vanish. bulk: no snapshots, backups on a schedule of its own. temp: each instance's
    own, gone with it.
    """

    STATE = "state"
    SHARED_STATE = "shared-state"
    CACHE = "cache"
    BULK = "bulk"
    TEMP = "temp"


SNAPSHOTTED = frozenset({VolumeClass.STATE, VolumeClass.SHARED_STATE})
EXCLUSIVE = frozenset({VolumeClass.STATE, VolumeClass.SHARED_STATE, VolumeClass.BULK})
"""Classes with one writer at a time: the old instance ends before the new one starts."""


class Unavailable(StrEnum):
    """What happens to a service whose storage is gone: its processes are ended, or stopped where they stand."""

    STOP = "stop"
    FREEZE = "freeze"


class OnFailureData(StrEnum):
    """The data choice of an automatic rollback after the cut-over. auto: keep where the old release declares that it
    reads the data, else hold. hold: the new release stays, and a person is called."""

    AUTO = "auto"
    KEEP = "keep"
    HOLD = "hold"
    RESTORE = "restore"


@dataclass(frozen=True, kw_only=True)
class VolumeBound:
    """A volume as an operator's policy allows it. size: quota in bytes (temp and cache too)."""

    name: str
    kind: VolumeClass
    size: int
    unavailable: Unavailable = Unavailable.STOP


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """Where a release sees a volume. path: absolute, a directory of the image; user: numeric owner of the volume's top
    inside the container when it is new (0 = the release's user)."""

    name: str
    path: str
    user: int = 0
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Quiesce:
    """How the writer comes to rest around a snapshot outside an update: programs of the image, run inside the instance.
    Left out: it is frozen for the moment of the snapshot. timeout: ms for each."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    timeout: int = 10_000


@dataclass(frozen=True, kw_only=True)
class DataRules:
    """Versions of its data that this release reads, and the one it writes (0 = keeps no data). keep_discarded: ms for
    which the side that a restore put away is kept; snapshots: how many are kept of a volume."""

    reads: tuple[int, ...] = ()
    writes: int = 0
    keep_discarded: int = 7 * 86_400_000
    snapshots: int = 3
    quiesce: Quiesce | None = None


class HookPoint(StrEnum):
    """Where a transaction stops for a hook. migrate: the old instances have ended, the snapshot is taken, nobody
    writes. prepare: nothing visible has changed. before_switch: the new side is ready. after_switch: it serves.
    before_rollback: the new side is about to leave."""

    PREPARE = "prepare"
    MIGRATE = "migrate"
    BEFORE_SWITCH = "before_switch"
    AFTER_SWITCH = "after_switch"
    BEFORE_ROLLBACK = "before_rollback"


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A container from a signed image that runs to its end: exit 0 lets the transaction go on. image: one of the
    release's images. timeout: ms."""

    name: str
    at: HookPoint
    argv: tuple[str, ...]
    image: str = "main"
    env: dict[str, str] | None = None
    timeout: int = 300_000
