"""What an executor journals of data: volumes and snapshots, as a node reports them.

Apart from the nouns of specs and releases: `nebh status` loads these alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SnapshotKind(StrEnum):
    """release: taken before an update left that release. discarded: what a restore put away. manual: a person's.
    backup: what is being copied to the store. fetched: what came from there, to be restored."""

    RELEASE = "release"
    DISCARDED = "discarded"
    MANUAL = "manual"
    BACKUP = "backup"
    FETCHED = "fetched"


@dataclass(frozen=True, kw_only=True)
class VolumeRow:
    """A volume as the executor journals it. version: of the data in it, 0 = nobody has said; counter: the release that
    wrote last; damaged: why its storage cannot be used, "" = it can."""

    service: str
    replica: int
    name: str
    epoch: int
    counter: int
    version: int
    made_at: int
    damaged: str = ""


@dataclass(frozen=True, kw_only=True)
class SnapshotRow:
    """A snapshot as the executor journals it, before it is taken and until after it is gone. taken_at, until: Unix ms
    (0 = for ever); txn: the transaction that took it; counter, version: of the release whose data it holds. whole: the
    driver has said that it is there."""

    service: str
    replica: int
    volume: str
    name: str
    kind: SnapshotKind
    txn: int
    epoch: int
    counter: int
    version: int
    taken_at: int
    until: int = 0
    whole: bool = False
