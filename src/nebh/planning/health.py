"""Health as a pure state machine: what a check's result means, whether a bake passes, when to restart. Times in ms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from nebh.model.instance import CheckResult
from nebh.model.service import Check, Health, Update

FIRST_DELAY = 1_000
MOST_DELAY = 60_000
CALM = 600_000
FEWEST_ANSWERS = 20
"""Below so many answers a share of errors says nothing."""


class Probe(StrEnum):
    """Which of an instance's checks a result is of."""

    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


class Standing(StrEnum):
    """What is to be done with an instance. starting: wait. ready: traffic. unready: no traffic. dead: restart it.
    late: it did not get ready within `startup_timeout`."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DEAD = "dead"
    LATE = "late"


@dataclass(frozen=True, kw_only=True)
class InstanceHealth:
    """What is known of one instance. failures: in a row, by probe; detail: of the newest failure; last: when each
    probe was made last."""

    began: int
    started: bool = False
    standing: Standing = Standing.STARTING
    failures: dict[Probe, int] = field(default_factory=dict)
    last: dict[Probe, int] = field(default_factory=dict)
    detail: str = ""


def begin(health: Health, *, now: int) -> InstanceHealth:
    """Return the state of an instance that has just been started."""
    standing = Standing.STARTING if health.startup or health.readiness else Standing.READY
    return InstanceHealth(began=now, started=health.startup is None, standing=standing)


def due(state: InstanceHealth, health: Health, *, now: int) -> tuple[Probe, ...]:
    """Return the probes to make now, in order. Readiness and liveness wait for startup; a dead instance gets none."""
    if state.standing in {Standing.DEAD, Standing.LATE}:
        return ()
    wanted = (Probe.READINESS, Probe.LIVENESS) if state.started else (Probe.STARTUP,)
    checks = {probe: check_of(health, probe) for probe in wanted}
    return tuple(
        probe
        for probe, check in checks.items()
        if check is not None and now - state.last.get(probe, now - check.interval) >= check.interval
    )


def check_of(health: Health, probe: Probe) -> Check | None:
    """Return the declared check."""
    return {
        Probe.STARTUP: health.startup,
        Probe.READINESS: health.readiness,
        Probe.LIVENESS: health.liveness,
    }[probe]


def advance(
    state: InstanceHealth, health: Health, *, probe: Probe, result: CheckResult, now: int
) -> tuple[InstanceHealth, Standing]:
    """Return the state after one result, and what it means. DEAD and LATE are final."""
    check = check_of(health, probe)
    if check is None or state.standing in {Standing.DEAD, Standing.LATE}:
        return state, state.standing
    failures = 0 if result.ok else state.failures.get(probe, 0) + 1
    detail = state.detail if result.ok else f"{check.name}: {result.detail}"
    after = replace(state, failures=state.failures | {probe: failures}, last=state.last | {probe: now}, detail=detail)
    if probe is Probe.STARTUP:
        after = _after_startup(after, health, ok=result.ok)
    elif probe is Probe.READINESS:
        after = _after_readiness(after, ok=result.ok, over=failures >= check.failures)
    elif failures >= check.failures:
        after = replace(after, standing=Standing.DEAD)
    if after.standing is Standing.STARTING and now - after.began >= health.startup_timeout:
        after = replace(after, standing=Standing.LATE)
    return after, after.standing


def _after_startup(state: InstanceHealth, health: Health, *, ok: bool) -> InstanceHealth:
    if not ok:
        return state
    standing = Standing.STARTING if health.readiness is not None else Standing.READY
    return replace(state, started=True, standing=standing)


def _after_readiness(state: InstanceHealth, *, ok: bool, over: bool) -> InstanceHealth:
    if ok:
        return replace(state, standing=Standing.READY)
    return replace(state, standing=Standing.UNREADY) if over and state.standing is Standing.READY else state


class BakeVerdict(StrEnum):
    """watching: not over yet."""

    WATCHING = "watching"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a bake looks at. check, result: a check that was made just now, of which instance. restarts: of the new side
    since the cut-over. answered, errors: the proxy's answers of the new side since then, and 5xx among them."""

    instance: str = ""
    check: Check | None = None
    result: CheckResult | None = None
    restarts: int = 0
    answered: int = 0
    errors: int = 0


@dataclass(frozen=True, kw_only=True)
class Bake:
    """A bake under way. failures: in a row, by (instance, check). reason: why it failed."""

    began: int
    failures: dict[tuple[str, str], int] = field(default_factory=dict)
    verdict: BakeVerdict = BakeVerdict.WATCHING
    reason: str = ""


def advance_bake(state: Bake, update: Update, *, seen: Seen, now: int) -> tuple[Bake, BakeVerdict]:
    """Return the bake after what was seen. A failure found in the last look counts even when the time is over."""
    if state.verdict is not BakeVerdict.WATCHING:
        return state, state.verdict
    failures, reason = dict(state.failures), ""
    if seen.check is not None and seen.result is not None:
        key = (seen.instance, seen.check.name)
        failures[key] = 0 if seen.result.ok else failures.get(key, 0) + 1
        if failures[key] >= seen.check.failures:
            reason = f"check {seen.check.name} of {seen.instance} failed {failures[key]} times: {seen.result.detail}"
    if seen.restarts:
        reason = reason or f"the new side ended {seen.restarts} times"
    elif seen.answered >= FEWEST_ANSWERS and seen.errors * 100 > update.max_error_percent * seen.answered:
        share = f"{seen.errors} of {seen.answered} answers at the ingress were errors"
        reason = reason or f"{share}; {update.max_error_percent} % are allowed"
    verdict = BakeVerdict.WATCHING
    if reason:
        verdict = BakeVerdict.FAILED
    elif now - state.began >= update.bake:
        verdict = BakeVerdict.PASSED
    after = replace(state, failures=failures, verdict=verdict, reason=reason)
    return after, verdict


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How often in a row an instance ended, and when last."""

    count: int = 0
    ended: int = 0


def next_restart(state: Backoff, *, now: int, healthy_for: int = 0) -> tuple[Backoff, int]:
    """Return the state after one more end, and the delay before the restart: 1, 2, 4 ... 60 s.

    healthy_for: how long the instance had been ready before it ended; after 10 minutes it starts again at 1 s.
    """
    count = 1 if healthy_for >= CALM else state.count + 1
    return Backoff(count=count, ended=now), min(FIRST_DELAY * 2 ** min(count - 1, 16), MOST_DELAY)
