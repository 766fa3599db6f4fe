"""Events: what happened on a node or in the controller, in words for people and fields for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """info: expected. warning: look at it soon. alarm: somebody must act, or somebody attacks."""

    INFO = "info"
    WARNING = "warning"
    ALARM = "alarm"


@dataclass(frozen=True, kw_only=True)
class Event:
    """number rises by one per source; at: Unix ms; source: node name or `controller`; kind: dotted, stable, such as
    `transaction.committed`, `instance.exited`, `instance.oom`, `refused`, `equivocation`, `log.flood`."""

    number: int
    at: int
    source: str
    kind: str
    severity: Severity
    message: str
    hint: str = ""
    service: str = ""
    facts: dict[str, str] = field(default_factory=dict)
