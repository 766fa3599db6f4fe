"""A node's doing as values: the rows of its journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nebh.model.running import InstanceRow, Role
from nebh.model.transaction import State

__all__ = ["InstanceRow", "ReleaseRow", "Role", "ServiceRow", "TransactionRow", "Wanted"]


class Wanted(StrEnum):
    """What should become of a service here."""

    RUNNING = "running"
    STOPPED = "stopped"
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class ServiceRow:
    """A service on this node. counter: its committed release, 0 = none yet. uid_index: k of its user id range."""

    service: str
    uid_index: int
    epoch: int
    counter: int
    replicas: int
    wanted: Wanted
    assignment: str = ""


@dataclass(frozen=True, kw_only=True)
class TransactionRow:
    """A transaction. kind: deploy, restore, restart, scale, stop, remove. phases: ms by phase name. cutover: the point
    of no return was passed. attempt: how often it was begun for the same nonce. data: what going back does with the
    data, "" = not decided yet; snapshot: the one that a restore brings back; live: it only replaces files under the
    instances that run."""

    id: int
    service: str
    kind: str
    state: State
    epoch: int
    from_counter: int
    to_counter: int
    replicas: int
    nonce: str
    phase: str
    cutover: bool
    attempt: int
    created_at: int
    changed_at: int
    reason: str = ""
    rule: str = ""
    phases: dict[str, int] = field(default_factory=dict)
    data: str = ""
    snapshot: str = ""
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class ReleaseRow:
    """An accepted release. committed_at, accepted_at: Unix ms. failed: why it is not tried again by itself."""

    service: str
    epoch: int
    counter: int
    digest: str
    body: bytes
    accepted_at: int
    committed_at: int = 0
    failed: str = ""
