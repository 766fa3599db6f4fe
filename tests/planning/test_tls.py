"""When certificates are asked for, how long a failure waits, of what people are warned."""

from __future__ import annotations

import pytest

from nebh.planning.tls import DAY, HOUR, LONGEST_USE, MINUTE, MOST_HONOURED, advise, days_to_warn, pause_after, renew_at


def test_a_renewal_begins_with_a_third_of_the_life_left() -> None:
    assert renew_at(not_before=0, not_after=90 * DAY, obtained_at=0) == 60 * DAY
    assert renew_at(not_before=0, not_after=6 * HOUR, obtained_at=0) == 4 * HOUR
    assert renew_at(not_before=0, not_after=9999 * DAY, obtained_at=5) == LONGEST_USE + 5


def test_pauses_grow_and_an_authority_is_heard_within_reason() -> None:
    assert [pause_after(n) // MINUTE for n in (1, 2, 3, 4, 5, 50)] == [1, 4, 16, 60, 60, 60]
    assert pause_after(1, asked=2 * DAY) == 2 * DAY
    assert pause_after(1, asked=10**15) == MOST_HONOURED
    assert pause_after(3, asked=1) == 16 * MINUTE


@pytest.mark.parametrize(
    ("left", "warned", "days"),
    [(31, 0, 0), (30, 0, 30), (29, 30, 0), (7, 30, 7), (6, 7, 0), (1, 7, 1), (0.5, 0, 1), (-3, 7, 1), (-3, 1, 0)],
)
def test_each_day_is_warned_of_once(left: float, warned: int, days: int) -> None:
    end = 90 * DAY
    assert days_to_warn(now=int(end - left * DAY), not_before=0, not_after=end, warned=warned) == days


def test_short_lives_are_not_warned_of_all_the_time() -> None:
    assert days_to_warn(now=6 * DAY, not_before=0, not_after=12 * DAY, warned=0) == 0
    assert days_to_warn(now=11 * DAY, not_before=0, not_after=12 * DAY, warned=0) == 1
    assert days_to_warn(now=HOUR, not_before=0, not_after=6 * HOUR, warned=0) == 0


def test_every_failure_has_an_advice() -> None:
    for kind in ("dns", "connection", "unauthorized", "caa", "rateLimited", "unreachable", "never heard of"):
        assert len(advise(kind, host="a.test", directory="https://ca.test/")) > 20
    assert "a.test" in advise("dns", host="a.test", directory="")
