"""Checks, bakes and restarts as state machines: state in, result in, state out."""

import pytest

from nebh.model.instance import CheckResult
from nebh.model.service import Check, CheckKind, Health, Update
from nebh.planning.health import (
    Backoff,
    Bake,
    BakeVerdict,
    InstanceHealth,
    Probe,
    Seen,
    Standing,
    advance,
    advance_bake,
    begin,
    due,
    next_restart,
)

OK, BAD = CheckResult(ok=True, detail=""), CheckResult(ok=False, detail="503")


def check(name: str, failures: int = 2) -> Check:
    return Check(name=name, kind=CheckKind.TCP, port=1, failures=failures, interval=1000)


ALL = Health(startup=check("startup"), readiness=check("readiness"), liveness=check("liveness"), startup_timeout=5000)


def run(health: Health, *steps: tuple[Probe, CheckResult, int]) -> tuple[InstanceHealth, list[Standing]]:
    state, seen = begin(health, now=0), []
    for probe, result, now in steps:
        state, standing = advance(state, health, probe=probe, result=result, now=now)
        seen.append(standing)
    return state, seen


def test_a_normal_life() -> None:
    state, seen = run(
        ALL,
        (Probe.STARTUP, BAD, 100),
        (Probe.STARTUP, OK, 1100),
        (Probe.READINESS, OK, 1200),
        (Probe.READINESS, BAD, 2200),
        (Probe.READINESS, BAD, 3200),
        (Probe.READINESS, OK, 4200),
        (Probe.LIVENESS, BAD, 4300),
        (Probe.LIVENESS, OK, 5300),
        (Probe.LIVENESS, BAD, 6300),
        (Probe.LIVENESS, BAD, 7300),
    )
    assert [one.value for one in seen] == [
        "starting",
        "starting",
        "ready",
        "ready",
        "unready",
        "ready",
        "ready",
        "ready",
        "ready",
        "dead",
    ]
    assert state.detail == "liveness: 503"
    assert due(state, ALL, now=99_999) == ()
    assert advance(state, ALL, probe=Probe.READINESS, result=OK, now=8000) == (state, Standing.DEAD)


def test_too_late_is_final() -> None:
    _, seen = run(ALL, (Probe.STARTUP, BAD, 4900), (Probe.STARTUP, BAD, 5000), (Probe.STARTUP, OK, 5100))
    assert seen == [Standing.STARTING, Standing.LATE, Standing.LATE]


def test_without_checks_it_is_ready_at_once() -> None:
    state = begin(Health(), now=0)
    assert state.standing is Standing.READY
    assert due(state, Health(), now=1) == ()


def test_probes_come_in_order_and_at_their_pace() -> None:
    state = begin(ALL, now=0)
    assert due(state, ALL, now=0) == (Probe.STARTUP,)
    state, _ = advance(state, ALL, probe=Probe.STARTUP, result=OK, now=0)
    assert due(state, ALL, now=0) == (Probe.READINESS, Probe.LIVENESS)
    state, _ = advance(state, ALL, probe=Probe.READINESS, result=OK, now=0)
    assert due(state, ALL, now=999) == (Probe.LIVENESS,)
    assert due(state, ALL, now=1000) == (Probe.READINESS, Probe.LIVENESS)


UPDATE = Update(bake=10_000, max_error_percent=5)


def look(result: CheckResult, instance: str = "web-1-0-1", failures: int = 2) -> Seen:
    return Seen(instance=instance, check=check("selftest", failures), result=result)


def test_a_quiet_bake_passes_when_its_time_is_over_not_before() -> None:
    state, verdict = advance_bake(Bake(began=0), UPDATE, seen=look(OK), now=9_999)
    assert verdict is BakeVerdict.WATCHING
    assert advance_bake(state, UPDATE, seen=look(OK), now=10_000)[1] is BakeVerdict.PASSED


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (look(BAD, failures=1), "check selftest of web-1-0-1 failed 1 times: 503"),
        (Seen(restarts=1), "ended 1 times"),
        (Seen(answered=100, errors=6), "6 of 100 answers"),
    ],
)
def test_what_fails_a_bake(seen: Seen, reason: str) -> None:
    for now in (5, 10_000):
        state, verdict = advance_bake(Bake(began=0), UPDATE, seen=seen, now=now)
        assert verdict is BakeVerdict.FAILED
        assert reason in state.reason
        assert advance_bake(state, UPDATE, seen=look(OK), now=20_000)[1] is BakeVerdict.FAILED


@pytest.mark.parametrize("seen", [look(BAD), Seen(answered=100, errors=5), Seen(answered=19, errors=19)])
def test_what_does_not_fail_a_bake(seen: Seen) -> None:
    assert advance_bake(Bake(began=0), UPDATE, seen=seen, now=5)[1] is BakeVerdict.WATCHING


def test_failures_of_two_instances_do_not_add_up() -> None:
    state, _ = advance_bake(Bake(began=0), UPDATE, seen=look(BAD, "a"), now=1)
    state, verdict = advance_bake(state, UPDATE, seen=look(BAD, "b"), now=2)
    assert verdict is BakeVerdict.WATCHING
    assert advance_bake(state, UPDATE, seen=look(BAD, "a"), now=3)[1] is BakeVerdict.FAILED


def test_restarts_back_off_and_calm_down() -> None:
    state, delays = Backoff(), []
    for _ in range(8):
        state, delay = next_restart(state, now=0)
        delays.append(delay)
    assert delays == [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]
    assert next_restart(state, now=0, healthy_for=599_999)[1] == 60_000
    assert next_restart(state, now=0, healthy_for=600_000)[1] == 1_000
    assert next_restart(Backoff(count=10_000), now=0)[1] == 60_000
