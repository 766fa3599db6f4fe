"""What acceptance and signing rules are made of: a rule, what it found, and how a table of them decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nebh.model.errors import Refused
from nebh.model.trust import Verdict

F = TypeVar("F")
NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Why a rule says no, in plain words. alarm: somebody attacks, or must act."""

    reason: str
    hint: str = ""
    alarm: bool = False


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[F]):
    """id: `N5.floor`, unique; name: the rule's name in docs/security.md; check: None = nothing to say against it."""

    id: str
    description: str
    check: Callable[[F], Finding | None]

    @property
    def name(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]


def decide(rules: tuple[Rule[F], ...], facts: F, *, disabled: frozenset[str] = NONE) -> Verdict:
    """Return the verdict of the first rule that says no. disabled: rule ids; tests only, production never passes it."""
    for rule in rules:
        found = None if rule.id in disabled else rule.check(facts)
        if found is not None:
            return Verdict(ok=False, rule=rule.name, reason=found.reason, hint=found.hint, alarm=found.alarm)
    return Verdict(ok=True)


def demand(verdict: Verdict, *, what: str, verb: str = "accept") -> None:
    """Raise Refused with the verdict's rule, reason and hint unless it is ok. what: `release 4 of web`."""
    if not verdict.ok:
        raise Refused(f"cannot {verb} {what}: {verdict.reason}", rule=verdict.rule, hint=verdict.hint)
