"""What looking at instances means, decision by decision."""

import pytest

from nebh.model.instance import CheckResult
from nebh.model.service import Check, CheckKind
from nebh.planning.health import (
    Backoff,
    Probe,
    Step,
    count_failures,
    judge_answers,
    judge_check,
    judge_probe,
    next_restart,
)

CHECK = Check(name="up", kind=CheckKind.TCP, port=1, failures=3, interval=1000)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (CheckResult(ok=True, detail=""), 0),
        (CheckResult(ok=False, detail="503"), 3),
        (CheckResult(ok=True, detail="it accepts connections", made=False), 2),
        (CheckResult(ok=False, detail="nobody answers", made=False), 3),
    ],
)
def test_a_check_that_nobody_made_clears_no_failure(result: CheckResult, expected: int) -> None:
    assert count_failures(2, result) == expected


def test_a_bake_fails_by_a_check_that_failed_often_enough_in_a_row() -> None:
    assert judge_check("web-1", CHECK, failures=2, detail="503") == ""
    assert judge_check("web-1", CHECK, failures=3, detail="503") == "check up of web-1 failed 3 times: 503"


@pytest.mark.parametrize(
    ("now", "allowed", "reason"),
    [
        ({"80/1": (19, 19)}, 5, ""),
        ({"80/1": (20, 1)}, 5, ""),
        ({"80/1": (20, 2)}, 5, "2 of 20 requests failed at the ingress; 5 % are allowed"),
        ({"80/1": (15, 1), "80/2": (15, 1)}, 5, "2 of 30 requests failed at the ingress; 5 % are allowed"),
        ({"80/1": (1000, 1000)}, 100, ""),
        ({}, 5, ""),
    ],
)
def test_the_proxys_own_numbers(now: dict[str, tuple[int, int]], allowed: int, reason: str) -> None:
    assert judge_answers({}, now, allowed=allowed) == reason


def test_what_was_answered_before_the_cut_over_does_not_count() -> None:
    assert judge_answers({"80/1": (500, 400)}, {"80/1": (540, 400)}, allowed=0) == ""


@pytest.mark.parametrize(
    ("probe", "failures", "resting", "step"),
    [
        (Probe.READINESS, 0, False, Step.NONE),
        (Probe.READINESS, 0, True, Step.WAKE),
        (Probe.READINESS, 2, False, Step.NONE),
        (Probe.READINESS, 3, False, Step.REST),
        (Probe.READINESS, 9, True, Step.NONE),
        (Probe.LIVENESS, 0, True, Step.NONE),
        (Probe.LIVENESS, 2, False, Step.NONE),
        (Probe.LIVENESS, 3, False, Step.END),
        (Probe.LIVENESS, 7, True, Step.END),
    ],
)
def test_what_a_probe_leads_to(probe: Probe, failures: int, resting: bool, step: Step) -> None:
    assert judge_probe(probe, CHECK, failures=failures, resting=resting) is step


def test_restarts_back_off_and_calm_down() -> None:
    state, delays, now = Backoff(), [], 1_000_000
    for _ in range(9):
        state, delay = next_restart(state, now=now)
        delays.append(delay)
        now += delay + 100
    assert delays == [0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
    assert next_restart(state, now=now + 600_001)[1] == 0
