"""What happened, in words. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.event import Event


@dataclass(frozen=True, kw_only=True)
class Events:
    """Events after the cursor asked for; ask again with `cursor`."""

    cursor: int
    events: tuple[Event, ...]
