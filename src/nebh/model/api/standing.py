"""How things stand: nodes and services. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.api.deploying import Deployment
from nebh.model.backup import BackupRow
from nebh.model.certificate import CertificateRow
from nebh.model.kept import SnapshotRow, VolumeRow
from nebh.model.running import InstanceRow, Running


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node says of itself, unsigned (its receipts are signed). seq: newest assignment its executor took;
    snapshot: version of the set it accepted from the controller; version: of its programs."""

    seq: int = 0
    snapshot: int = 0
    running: tuple[Running, ...] = ()
    instances: tuple[InstanceRow, ...] = ()
    version: str = ""
    volumes: tuple[VolumeRow, ...] = ()
    snapshots: tuple[SnapshotRow, ...] = ()
    backups: tuple[BackupRow, ...] = ()
    certificates: tuple[CertificateRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """A node of the signed list with what it last reported; last_seen 0 = never."""

    node_id: str
    name: str
    groups: tuple[str, ...]
    status: str
    last_seen: int
    connected: bool
    report: NodeReport | None = None


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A service on one node, as the node reported it."""

    node: str
    running: Running


@dataclass(frozen=True, kw_only=True)
class ServiceView:
    """A service that has a policy. releases: counters listed now. deployment: the newest one."""

    service: str
    state: str
    epoch: int
    policy_version: int
    releases: tuple[int, ...]
    allocations: tuple[Allocation, ...]
    deployment: Deployment | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """The cloud at a glance. expires: Unix seconds by role."""

    cluster_id: str
    name: str
    version: str
    now: int
    snapshot: int
    versions: dict[str, int]
    expires: dict[str, int]
    nodes: tuple[NodeView, ...]
    services: tuple[ServiceView, ...]
