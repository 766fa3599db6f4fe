"""Rehearsals: a release started on a copy of its data, apart from everything, to see whether it would run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DAY: int = 86_400_000


class Rehearsed(StrEnum):
    """Which release is rehearsed by schedule: the one that a rollback would go back to, or the one that runs."""

    PREVIOUS = "previous"
    RUNNING = "running"


@dataclass(frozen=True, kw_only=True)
class RehearsalRule:
    """How often a node rehearses by itself. every: ms; at: ms after midnight, UTC, -1 = `every` after the last one."""

    every: int = DAY
    at: int = -1
    release: Rehearsed = Rehearsed.PREVIOUS


@dataclass(frozen=True, kw_only=True)
class RehearsalRow:
    """A rehearsal that is under way, as the executor journals it before anything of it exists. id: of its instance;
    address: number in the node's subnets; nonce: of the order, "" = by schedule; began_at: Unix ms."""

    id: str
    service: str
    epoch: int
    counter: int
    replica: int
    attempt: int
    address: int
    nonce: str
    began_at: int
