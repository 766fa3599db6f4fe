"""What a node's storage holds: volumes and snapshots as they are found there, not as they are remembered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from nebh.model.errors import BadInput

_PART = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
_STORED = re.compile(rf"{_PART}(?:\.{_PART}){{0,2}}\Z")


def stored_name(*, service: str, volume: str, replica: int) -> str:
    """Return the name under which a node stores a volume: `db.data.0`."""
    return f"{service}.{volume}.{replica}"


def check_stored_name(text: str, *, what: str) -> str:
    """Return `text`, or raise BadInput. what: `volume` or `snapshot`. One to three parts of a-z, 0-9 and inner -,
    joined by dots: it can be a file's name, a device's name and a word of a command line."""
    if _STORED.match(text) is None:
        raise BadInput(
            f"cannot use {text!r} as the name of a stored {what}",
            hint="one to three parts joined by dots, each 1-40 of a-z, 0-9 and -, without - at its ends",
        )
    return text


class Ability(StrEnum):
    """What not every kind of storage can do. quota: it refuses what goes beyond a volume's quota. exclusive: it knows
    how much only one snapshot holds. browse: files of snapshots can be listed and compared. live: a snapshot of a
    volume that is written to is one instant of it. clone, resize: it has these verbs."""

    QUOTA = "quota"
    EXCLUSIVE = "exclusive"
    BROWSE = "browse"
    LIVE = "live"
    CLONE = "clone"
    RESIZE = "resize"


@dataclass(frozen=True, kw_only=True)
class VolumePlan:
    """A volume to make. name: see stored_name. quota: bytes, 0 = none. uid, gid: owner of its top, as the disk keeps it."""

    name: str
    quota: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, kw_only=True)
class StoredSnapshot:
    """A state of a volume. taken_at: Unix ms, 0 = unknown. discarded: it is what a restore put away."""

    name: str
    taken_at: int = 0
    discarded: bool = False


@dataclass(frozen=True, kw_only=True)
class StoredVolume:
    """A volume that is there. quota: bytes, 0 = none; snapshots: oldest first."""

    name: str
    quota: int = 0
    snapshots: tuple[StoredSnapshot, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VolumeUsage:
    """used: bytes its files hold; quota: bytes, 0 = none; free: bytes left on the storage it shares with others, -1 =
    unknown; exclusive: bytes that would come free with a snapshot, by name, where that is known; strays: subvolumes
    that a program made inside it, which no snapshot holds."""

    used: int
    quota: int
    free: int = -1
    exclusive: dict[str, int] | None = None
    strays: int = 0


@dataclass(frozen=True, kw_only=True)
class StorageRoom:
    """What all volumes of a node share, in bytes. growth: by how much it may still become larger by itself; size 0 = it
    does not know."""

    size: int
    free: int
    growth: int = 0


class FileKind(StrEnum):
    """What a name in a volume is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    r"""A name in a volume. path: relative, bytes that are no UTF-8 as `\xNN`; size: bytes; modified: Unix ms."""

    path: str
    kind: FileKind
    size: int
    mode: int
    uid: int
    gid: int
    modified: int


class ChangeKind(StrEnum):
    """How a path differs between two states."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, kw_only=True)
class StoredChange:
    """A path that differs. before, after: sizes in bytes, 0 where it is not."""

    path: str
    kind: ChangeKind
    before: int = 0
    after: int = 0
