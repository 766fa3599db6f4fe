"""Logs are looked at as often as somebody prints, and whoever floods is named."""

from __future__ import annotations

import pytest

from nebh.executor.floods import FAST, FLOOD, STEADY, LogKeeper
from nebh.host.clock import SystemClock


class Hand(SystemClock):
    """A clock that is moved by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def keeper(bench, monkeypatch):
    bench.deploy(1)
    bench.clock = Hand()
    bench.written = 0
    monkeypatch.setattr(bench.containers, "log_written", lambda _: bench.written)
    bench.quiet = replace_context(bench)
    return LogKeeper(bench.quiet)


def replace_context(bench):
    """The same context with another clock."""
    import copy

    context = copy.copy(bench.context)
    context.clock = bench.clock
    return context


def pass_time(bench, seconds: float, written: int) -> None:
    bench.clock.now += seconds
    bench.written += written


def floods_said(bench) -> int:
    return sum(line.startswith("instance.log-flood") for line in bench.events())


def test_idle_is_looked_at_every_five_seconds(bench, keeper):
    for _ in range(5):
        assert keeper.look() == STEADY
        pass_time(bench, STEADY, 1000)
    assert floods_said(bench) == 0


def test_a_flood_is_looked_at_twice_a_second_and_named_once(bench, keeper):
    keeper.look()
    pass_time(bench, STEADY, 2 * FLOOD)
    assert keeper.look() == FAST
    for _ in range(40):
        pass_time(bench, FAST, FLOOD)
        assert keeper.look() == FAST
    assert floods_said(bench) == 1
    pass_time(bench, FAST, 0)
    assert keeper.look() == STEADY


def test_a_flood_is_named_at_the_fast_pace_too(bench, keeper):
    keeper.look()
    for _ in range(11):
        pass_time(bench, FAST, FLOOD // 8)
        keeper.look()
    assert floods_said(bench) == 1


def test_what_was_written_before_this_executor_is_no_flood(bench, keeper):
    bench.written = 100 * FLOOD
    assert keeper.look() == STEADY
    pass_time(bench, STEADY, 10)
    keeper.look()
    assert floods_said(bench) == 0


def test_an_instance_made_anew_counts_from_the_start(bench, keeper):
    bench.written = 100 * FLOOD
    keeper.look()
    bench.written = 0
    pass_time(bench, STEADY, 1000)
    assert keeper.look() == STEADY
    assert floods_said(bench) == 0
