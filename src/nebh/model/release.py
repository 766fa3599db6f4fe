"""One numbered, immutable, signed triple of a service: the TUF target `release/<service>/<counter>.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from nebh.model.config import ConfigBundle, ConfigFile
from nebh.model.image import ImageRef
from nebh.model.rehearsal import RehearsalRule
from nebh.model.secret import SecretUse
from nebh.model.service import Health, Stop, Update
from nebh.model.volume import DataRules, Hook, VolumeMount


@dataclass(frozen=True, kw_only=True)
class Release:
    """signed_at: Unix seconds. images: "main" is the root file system. rollback_until: Unix seconds, 0 = not
    shortened. ports: its listening ports by the names that the policy's routes use. built_from: provenance for people
    (source, host, author), never decided upon. config: what `files` are rendered from."""

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
    config: ConfigBundle | None = None
    files: tuple[ConfigFile, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    health: Health = field(default_factory=Health)
    stop: Stop = field(default_factory=Stop)
    update: Update = field(default_factory=Update)
    needs: tuple[str, ...] = ()
    retention: int = 3
    hooks: tuple[Hook, ...] = ()
    data: DataRules = field(default_factory=DataRules)
    rehearse: RehearsalRule | None = None
    policy_min_version: int = 1
    rollback_until: int = 0
    built_from: dict[str, str] = field(default_factory=dict)
