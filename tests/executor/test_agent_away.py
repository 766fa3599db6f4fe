"""A new release does not pass for want of an agent that makes its checks; one that has passed them before needs none."""

from __future__ import annotations

import threading

import pytest

from nebh.executor import prepare, verdict
from nebh.model.errors import Unreachable
from nebh.model.service import Check, CheckKind, Health, Update
from nebh.model.statement import Outcome
from nebh.model.transaction import State

pytestmark = pytest.mark.slow

BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/bad", interval=100, failures=1)
OPEN = Check(name="open", kind=CheckKind.TCP, port=8080, interval=100)


def asked_again(bench) -> None:
    seen = bench.agent.probes
    bench.until(lambda: bench.agent.probes > seen + 4)


@pytest.mark.parametrize("comes", [True, False])
def test_after_a_crash_the_agent_is_waited_for(bench, monkeypatch, comes):
    monkeypatch.setattr(prepare, "TRY_AGAIN", 0.05)
    monkeypatch.setattr(prepare, "TRIES", 1000 if comes else 3)
    bench.deploy(1)
    bench.add_release(2)
    begun, ended, asked, fetch = threading.Event(), threading.Event(), threading.Event(), bench.agent.objects

    def never(items, take):
        begun.set()
        ended.wait(30)
        raise RuntimeError("the executor that asked has ended")

    def away(items, take):
        asked.set()
        raise Unreachable("cannot reach the agent: it is not there")

    bench.agent.objects = never
    nonce = bench.assign(2)
    assert begun.wait(30)
    bench.agent.objects = away
    bench.restart(patience=0.2)
    ended.set()
    assert asked.wait(30)
    if comes:
        bench.agent.objects = fetch
    bench.settle()
    assert bench.outcome(nonce) is (Outcome.COMMITTED if comes else Outcome.FAILED)
    assert bench.counters() == [2 if comes else 1]


def test_what_was_never_ready_is_not_taken_for_ready(bench):
    bench.deploy(1)
    bench.agent.sick.add("/bad")
    bench.agent.away = True
    bench.add_release(2, health=Health(readiness=BAD, startup_timeout=2000))
    nonce = bench.assign(2)
    bench.until_state("STARTING")
    asked_again(bench)
    assert bench.work.open_transaction("web").state is State.STARTING
    bench.agent.away = False
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert bench.counters() == [1]


def test_an_agent_that_stays_away_is_the_reason_given(bench):
    bench.deploy(1)
    bench.agent.away = True
    bench.add_release(2, health=Health(readiness=BAD, startup_timeout=300))
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert "more could not be asked: the agent is away" in bench.receipts[-1].detail


def test_a_trial_ends_with_checks_that_were_made(bench):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=400, checks=(BAD,), drain=100))
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    bench.agent.sick.add("/bad")
    bench.agent.away = True
    asked_again(bench)
    asked_again(bench)
    assert bench.work.open_transaction("web").state is State.CHECKING
    bench.agent.away = False
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert bench.counters() == [1]


def test_a_trial_does_not_wait_for_ever(bench, monkeypatch):
    monkeypatch.setattr(verdict, "AGENT_PATIENCE", 0.3)
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=200, checks=(BAD,), drain=100))
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    bench.agent.away = True
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert "check bad" in bench.receipts[-1].detail


def test_going_back_needs_no_agent(bench):
    bench.deploy(1)
    bench.deploy(2)
    bench.agent.away = True
    nonce = bench.assign(1)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert bench.counters() == [1]


def test_a_port_is_looked_at_without_an_agent(bench):
    bench.deploy(1)
    bench.agent.away = True
    bench.deploy(2, health=Health(readiness=OPEN), update=Update(bake=150, checks=(OPEN,), drain=100))
    assert bench.counters() == [2]
