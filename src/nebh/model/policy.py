"""The operator's signed bounds for a service: the TUF target `policy/<service>.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nebh.model.backup import BackupRule
from nebh.model.service import Connect, Egress, Limits, Placement, Replicas, Route
from nebh.model.volume import OnFailureData, VolumeBound


class ServiceState(StrEnum):
    """Whether the service should run."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class NetPolicy:
    """Everything a service publishes or may reach. `ports`: its listening TCP ports by name."""

    routes: tuple[Route, ...] = ()
    ports: dict[str, int] = field(default_factory=dict)
    connects: tuple[Connect, ...] = ()
    egress: tuple[Egress, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """signed_at: Unix seconds. replicas.count is the wish at signing time and binds nobody; rollback_window: ms."""

    cluster_id: str
    service: str
    version: int
    epoch: int
    signed_at: int
    state: ServiceState
    placement: Placement
    replicas: Replicas
    limits: Limits
    net: NetPolicy
    volumes: tuple[VolumeBound, ...] = ()
    secrets: tuple[str, ...] = ()
    backup: BackupRule | None = None
    caps: tuple[str, ...] = ()
    lint_exceptions: tuple[str, ...] = ()
    checks_required: bool = True
    on_failure_data: OnFailureData = OnFailureData.AUTO
    pins: tuple[int, ...] = ()
    min_release: int = 0
    rollback_window: int = 7 * 86_400_000
    cgroup_view: bool = False
    tmp_exec: bool = False
