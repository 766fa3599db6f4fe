"""What looking at instances means: does a bake fail, what is done with one that fails its probes, when does one that
ended come back. Times in ms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from nebh.model.instance import CheckResult
from nebh.model.service import Check

FIRST_DELAY = 1_000
MOST_DELAY = 60_000
CALM = 600_000
FEWEST_ANSWERS = 20
"""Below so many answers a share of errors says nothing."""


def count_failures(before: int, result: CheckResult) -> int:
    """Return how often in a row a check has failed now. One that nobody could make clears no failure."""
    if not result.ok:
        return before + 1
    return 0 if result.made else before


def judge_check(instance: str, check: Check, *, failures: int, detail: str) -> str:
    """Return why a bake fails by this check, "" when it goes on."""
    if failures < check.failures:
        return ""
    return f"check {check.name} of {instance} failed {failures} times: {detail}"


def judge_answers(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]], *, allowed: int) -> str:
    """Return why a bake fails by the proxy's own numbers, "" when it goes on.

    before, now: (answers, 5xx among them) of each slot of the new side. allowed: percent.
    """
    total, errors = (sum(one[i] for one in now.values()) - sum(one[i] for one in before.values()) for i in (0, 1))
    if total < FEWEST_ANSWERS or errors * 100 <= allowed * total:
        return ""
    return f"{errors} of {total} requests failed at the ingress; {allowed} % are allowed"


class Probe(StrEnum):
    """Which of a serving instance's checks a result is of."""

    READINESS = "readiness"
    LIVENESS = "liveness"


class Step(StrEnum):
    """What a probe of a serving instance leads to. rest: no traffic until it is ready. wake: traffic again. end: kill
    it, its restart follows."""

    NONE = "none"
    REST = "rest"
    WAKE = "wake"
    END = "end"


def judge_probe(probe: Probe, check: Check, *, failures: int, resting: bool) -> Step:
    """Return what to do after a probe that has failed `failures` times in a row by now (0: it went well)."""
    if probe is Probe.LIVENESS:
        return Step.END if failures >= check.failures else Step.NONE
    if failures == 0:
        return Step.WAKE if resting else Step.NONE
    return Step.REST if failures >= check.failures and not resting else Step.NONE


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How often in a row an instance ended, and when last."""

    count: int = 0
    ended: int = 0


def next_restart(state: Backoff, *, now: int) -> tuple[Backoff, int]:
    """Return the state after one more end, and the delay before the restart: 0, then 1, 2, 4 ... 60 s; after 10 minutes
    without an end it starts again at 0."""
    count = 0 if now - state.ended > CALM else state.count
    delay = 0 if count == 0 else min(FIRST_DELAY * 2 ** min(count - 1, 16), MOST_DELAY)
    return Backoff(count=count + 1, ended=now), delay
