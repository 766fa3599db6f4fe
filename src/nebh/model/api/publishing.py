"""Signed metadata and objects on their way in. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PublishRequest:
    """Compare-and-swap: `base` holds the versions built upon by role ({} = first publication; the timestamp's does not
    count). metadata: new files by their name, such as `7.targets.json`; targets: by their path below targets/, hash
    prefix included. The controller signs `timestamp.json` itself when it is left out or was overtaken."""

    base: dict[str, int]
    metadata: dict[str, str]
    targets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Published:
    """The set that stands now: versions by role."""

    snapshot: int
    versions: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Digests:
    """Hex SHA-256 of plain bytes, at most 10,000."""

    digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How many objects of an upload were new, and how many bytes they hold."""

    objects: int
    bytes: int
