"""One numbered, immutable, signed triple of a service: the TUF target `release/<service>/<counter>.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from nebh.model.image import ImageRef
from nebh.model.service import Health, Stop, Update


@dataclass(frozen=True, kw_only=True)
class DataRules:
    """Versions of its data that this release reads, and the one it writes (0 = keeps no data)."""

    reads: tuple[int, ...] = ()
    writes: int = 0


@dataclass(frozen=True, kw_only=True)
class Release:
    """signed_at: Unix seconds. images: "main" is the root file system. rollback_until: Unix seconds, 0 = not
    shortened. ports: its listening ports by the names that the policy's routes use. built_from: provenance for people (source, host, author), never decided upon."""

    cluster_id: str
    service: str
    epoch: int
    counter: int
    signed_at: int
    images: dict[str, ImageRef]
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    user: int = 10001
    ports: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    stop: Stop = field(default_factory=Stop)
    update: Update = field(default_factory=Update)
    needs: tuple[str, ...] = ()
    retention: int = 3
    hooks: tuple[str, ...] = ()
    data: DataRules = field(default_factory=DataRules)
    policy_min_version: int = 1
    rollback_until: int = 0
    built_from: dict[str, str] = field(default_factory=dict)
