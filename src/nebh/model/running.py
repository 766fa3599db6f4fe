"""What runs: an allocation as a node reports it, an instance as its executor journals it.

Apart from the statements and rows that hold them: `nebh status` loads these alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """prepare: get everything ready, change nothing visible. run: make it the running release. restart: new
    instances of the same release. withdraw: stop here (spread services only)."""

    PREPARE = "prepare"
    RUN = "run"
    RESTART = "restart"
    WITHDRAW = "withdraw"


@dataclass(frozen=True, kw_only=True)
class Running:
    """One service on the node: its committed release, how many replicas answer, and any open transaction."""

    service: str
    epoch: int
    counter: int
    replicas: int
    ready: int
    transaction: str = ""
    target: int = 0


class Role(StrEnum):
    """What an instance is there for.

    new: made by the open transaction, gets nothing yet. serving: gets requests. old: drained, kept so that going back
    is a cut-over. leaving: on its way out, whatever happens. rehearsal: on a copy of the data, apart from everything; in
    no list of instances.
    """

    NEW = "new"
    SERVING = "serving"
    OLD = "old"
    LEAVING = "leaving"
    REHEARSAL = "rehearsal"


@dataclass(frozen=True, kw_only=True)
class InstanceRow:
    """An instance that exists or should. address: number in the node's subnets. slot: of every backend it serves.
    txn: the transaction that made it."""

    id: str
    service: str
    epoch: int
    counter: int
    replica: int
    attempt: int
    address: int
    slot: int
    role: Role
    txn: int
    created_at: int
    restarts: int = 0
    last_exit: str = ""
