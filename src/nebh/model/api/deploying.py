"""How far what was asked for is. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nebh.model.running import Phase


class DeploymentState(StrEnum):
    """open: receipts are awaited. superseded: another took its place. The rest: as the nodes' receipts say."""

    OPEN = "open"
    DONE = "done"
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A request that became assignments. by: beginning of the operator's key. nodes: name -> newest outcome for this
    nonce, "" while none. reasons: why the scheduler chose so."""

    id: int
    service: str
    epoch: int
    counter: int
    replicas: int
    phase: Phase
    nonce: str
    at: int
    by: str
    state: DeploymentState
    ended_at: int = 0
    nodes: dict[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
