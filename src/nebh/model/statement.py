"""Statements in DSSE envelopes: what controllers choose, operators order and nodes report.

Payload types: `application/vnd.nebh.<kind>.v1+json` with kind assignment | order | receipt | transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nebh.model.backup import BackupWish
from nebh.model.running import Phase, Running

__all__ = ["Action", "Assignment", "Order", "Outcome", "Phase", "Receipt", "Running", "TransportKey"]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The controller's choice inside signed bounds. `seq` rises per node; `nonce` is the command's, hex."""

    cluster_id: str
    node_id: str
    seq: int
    assignment_id: str
    nonce: str
    service: str
    epoch: int
    counter: int
    replicas: int
    phase: Phase


class Action(StrEnum):
    """What an operator's order does."""

    REMOVE = "remove"
    ABORT = "abort"
    RESUME = "resume"
    RESTORE = "restore"
    BACKUP = "backup"
    VERIFY_BACKUPS = "verify-backups"
    LIST_BACKUPS = "list-backups"
    REHEARSE = "rehearse"
    END_REHEARSAL = "end-rehearsal"
    SNAPSHOT = "snapshot"
    DELETE_SNAPSHOT = "delete-snapshot"
    CLONE = "clone"


@dataclass(frozen=True, kw_only=True)
class Order:
    """An operator's signed statement. signed_at, not_after: Unix seconds. nodes: node ids. volume: of the service, "" =
    all that the action is about. target: SERVICE/VOLUME that a clone becomes. force: also the last good snapshot."""

    cluster_id: str
    nodes: tuple[str, ...]
    service: str
    action: Action
    nonce: str
    signed_at: int
    not_after: int
    counter: int = 0
    volume: str = ""
    snapshot: str = ""
    backup: BackupWish | None = None
    target: str = ""
    force: bool = False


class Outcome(StrEnum):
    """What a receipt says happened to the command with its nonce."""

    ACCEPTED = "accepted"
    PREPARED = "prepared"
    CUT_OVER = "cut-over"
    HEALTHY = "healthy"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"
    FAILED = "failed"
    STOPPED = "stopped"
    REMOVED = "removed"
    STATUS = "status"
    ROTATED = "rotated"
    DONE = "done"
    REHEARSED = "rehearsed"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A node's signed word. number rises by one; previous: hex SHA-256 of the receipt before; at: Unix ms;
    phases: milliseconds each phase of the transaction took; of a rehearsal each step, numbered: `01 prepare`."""

    cluster_id: str
    node_id: str
    number: int
    previous: str
    at: int
    nonce: str
    outcome: Outcome
    service: str = ""
    counter: int = 0
    rule: str = ""
    detail: str = ""
    hint: str = ""
    phases: dict[str, int] | None = None
    snapshot: int = 0
    root: int = 0
    targets: int = 0
    running: tuple[Running, ...] = ()
    audit_head: str = ""


@dataclass(frozen=True, kw_only=True)
class TransportKey:
    """The agent speaks to controllers with this hex Ed25519 key until not_after (Unix seconds)."""

    cluster_id: str
    node_id: str
    transport_pk: str
    not_after: int
