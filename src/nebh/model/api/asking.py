"""What operators ask for. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.running import Phase


@dataclass(frozen=True, kw_only=True)
class DeploymentRequest:
    """Ask for a release to run (or prepare, restart, withdraw). replicas: over all nodes. supersede: take the place of
    an open deployment (rollback, abort)."""

    counter: int
    epoch: int
    replicas: int
    phase: Phase
    nonce: str
    supersede: bool = False


@dataclass(frozen=True, kw_only=True)
class Signed:
    """One signed envelope, untouched: canonical bytes in base64."""

    envelope: str


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A node's answer (base64), which only whoever asked can open."""

    box: str


@dataclass(frozen=True, kw_only=True)
class Relayed:
    """An order was stored for these nodes (names)."""

    order: int
    nodes: tuple[str, ...]
