"""What one node does to move all its allocations of a service from one release to another (architecture 3)."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """States of a transaction; `LEGAL` holds every transition there is."""

    ASSIGNED = "ASSIGNED"
    PREPARING = "PREPARING"
    PREPARED = "PREPARED"
    STARTING = "STARTING"
    CUTTING_OVER = "CUTTING_OVER"
    CHECKING = "CHECKING"
    HEALTHY = "HEALTHY"
    COMMITTED = "COMMITTED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    REFUSED = "REFUSED"
    DROPPED = "DROPPED"


LEGAL: dict[State, frozenset[State]] = {
    State.ASSIGNED: frozenset({State.PREPARING, State.REFUSED, State.DROPPED}),
    State.PREPARING: frozenset({State.PREPARED, State.REFUSED, State.DROPPED}),
    State.PREPARED: frozenset({State.STARTING, State.PREPARING, State.DROPPED}),
    State.STARTING: frozenset({State.CUTTING_OVER, State.ROLLING_BACK}),
    State.CUTTING_OVER: frozenset({State.CHECKING, State.ROLLING_BACK}),
    State.CHECKING: frozenset({State.HEALTHY, State.ROLLING_BACK}),
    State.HEALTHY: frozenset({State.COMMITTED, State.ROLLING_BACK}),
    State.ROLLING_BACK: frozenset({State.ROLLED_BACK}),
    State.COMMITTED: frozenset(),
    State.ROLLED_BACK: frozenset(),
    State.REFUSED: frozenset(),
    State.DROPPED: frozenset(),
}

ENDED = frozenset(state for state, following in LEGAL.items() if not following)
SERVING_NEW = frozenset({State.CHECKING, State.HEALTHY})


def is_legal(before: State, after: State) -> bool:
    """Tell whether a transaction may go from `before` to `after`."""
    return after in LEGAL[before]
