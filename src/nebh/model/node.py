"""Nodes and cluster settings: the TUF targets `cluster/nodes.json` and `cluster/settings.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class NodeStatus(StrEnum):
    """Whether the node may run anything new."""

    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Oldest metadata versions a fresh node accepts: snapshot version and versions by role name."""

    snapshot: int
    roles: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """A signed node. Keys are hex of the raw 32 bytes; subnets: one IPv4 /20 and one IPv6 /64."""

    node_id: str
    name: str
    groups: tuple[str, ...]
    sign_pk: str
    seal_pk: str
    wg_pk: str
    subnets: tuple[str, ...]
    enrolled_at: int
    baseline: Baseline
    status: NodeStatus = NodeStatus.ACTIVE


@dataclass(frozen=True, kw_only=True)
class NodeList:
    """cluster/nodes.json."""

    cluster_id: str
    nodes: tuple[NodeRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProgramVersion:
    """The program version that nodes of a platform run (N16)."""

    version: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """cluster/settings.json. poll and stale_after in ms; controller_keys: hex Ed25519 keys that sign assignments;
    controller_tls_pins: hex SHA-256 of certificates; program: by platform, such as `linux-amd64`."""

    cluster_id: str
    name: str
    poll: int = 30_000
    stale_after: int = 300_000
    mirrors: tuple[str, ...] = ()
    controller_keys: tuple[str, ...] = ()
    controller_tls_pins: tuple[str, ...] = ()
    program: dict[str, ProgramVersion] = field(default_factory=dict)
