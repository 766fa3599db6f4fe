"""Back from a trial: at once, journalled together with the command, and safe wherever it is cut short."""

from __future__ import annotations

import threading
import time

import pytest

from nebh.executor import trial as trial_module
from nebh.model.errors import Failed, Refused
from nebh.model.instance import CheckResult
from nebh.model.network import SlotState
from nebh.model.node import Settings
from nebh.model.service import Check, CheckKind, Update
from nebh.model.statement import Assignment, Outcome, Phase
from nebh.model.transaction import State
from nebh.model.work import Role
from nebh.signing.statements import Seed, sign_statement
from nebh.wire import codec

pytestmark = pytest.mark.slow

CONTROLLER = Seed(b"c" * 32)
BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/bad", interval=100, failures=1)
LONG = Update(bake=600_000, checks=(BAD,), drain=100)  # good as long as /bad is not sick


def command(bench, counter):
    """Return a signed assignment."""
    bench.nonces += 1
    nonce = f"{bench.nonces:032x}"
    wish = Assignment(
        cluster_id=bench.accepted.meta("cluster_id"),
        node_id=bench.accepted.meta("node_id"),
        seq=bench.nonces,
        assignment_id=nonce,
        nonce=nonce,
        service="web",
        epoch=1,
        counter=counter,
        replicas=1,
        phase=Phase.RUN,
    )
    return nonce, sign_statement("assignment", wish, CONTROLLER)


def on_trial(bench, *, update=LONG, offered=True):
    """Have release 1 serve and release 2 on trial, with the way back computed; return the trial's nonce."""
    settings = Settings(cluster_id="c" * 32, name="home", controller_keys=(CONTROLLER.public,))
    bench.context.database.write("INSERT OR REPLACE INTO documents VALUES ('settings', 1, ?)", codec.encode(settings))
    bench.deploy(1)
    bench.add_release(2, update=update)
    nonce = bench.assign(2)
    if offered:
        bench.until(lambda: bench.executor.engine._offers)
    return nonce


def ready(bench):
    """Return the counters of the instances that get new requests."""
    slots = {number for (_, number), slot in bench.ingress.slots.items() if slot.state is SlotState.READY}
    return {one.counter for one in bench.work.instances() if one.slot in slots}


def back_on_1(bench):
    bench.settle()
    assert bench.counters() == [1]
    assert ready(bench) == {1}
    assert len(bench.work.instances()) == 1
    assert bench.work.history("web")[0].state is State.ROLLED_BACK


def trace(bench):
    """Return a list that fills with switches and what the journal does."""
    found = []
    switch = bench.ingress.switch
    bench.ingress.switch = lambda changes: (found.append("switch"), switch(changes))[1]
    bench.context.database._connection.set_trace_callback(found.append)
    return found


def test_one_commit_holds_the_command_and_the_end_and_comes_after_the_switch(bench):
    first = on_trial(bench)
    nonce, envelope = command(bench, 1)
    found = trace(bench)
    bench.executor.intake.assignment(envelope)
    before = found[: found.index("switch")]
    assert not any(line.startswith(("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE")) for line in before)
    after = found[found.index("switch") :]
    commit = after[: after.index("COMMIT")]
    for part in ("'seq'", "UPDATE services SET assignment", "'ROLLING_BACK'", "'ROLLED_BACK'", "SET role = 'serving'"):
        assert any(part in line for line in commit), part
    back_on_1(bench)
    bench.until(lambda: bench.outcomes(nonce) == [Outcome.COMMITTED])
    assert bench.outcomes(first)[-1] is Outcome.ROLLED_BACK
    kinds = [line.partition(":")[0] for line in bench.events()]
    assert kinds.index("transaction.rolling-back") < kinds.index("transaction.rolled-back")
    assert "a newer command" in bench.accepted.release_row("web", 1, 2).failed
    with pytest.raises(Refused) as refusal:
        bench.executor.intake.assignment(envelope)
    assert refusal.value.rule == "assignment.seq"
    assert Outcome.REFUSED not in bench.outcomes(nonce), "an agent that asks again must not belie what came of it"


def test_a_command_that_is_not_the_controllers_turns_nothing_back(bench):
    on_trial(bench)
    _, envelope = command(bench, 1)
    genuine = codec.decode(envelope, dict, what="an envelope")
    other = codec.decode(sign_statement("assignment", {}, Seed(b"x" * 32)), dict, what="an envelope")
    with pytest.raises(Refused) as refusal:
        bench.executor.intake.assignment(codec.encode(genuine | {"signatures": other["signatures"]}))
    assert refusal.value.rule == "N1"
    assert any(line.startswith("assignment.refused") for line in bench.events())
    assert ready(bench) == {2}
    assert bench.accepted.seq() == 0
    assert bench.work.open_transaction("web").state is State.CHECKING


def test_a_check_that_hangs_holds_up_nobody(bench):
    on_trial(bench)
    asked, go = threading.Event(), threading.Event()

    def hang(check, address):
        asked.set()
        assert go.wait(30)
        return CheckResult(ok=True, detail="")

    bench.agent.probe = hang
    assert asked.wait(30)
    _, envelope = command(bench, 1)
    bench.executor.intake.assignment(envelope)
    assert ready(bench) == {1}
    assert bench.work.history("web")[0].state is State.ROLLED_BACK
    go.set()
    back_on_1(bench)


def test_the_way_back_is_computed_again_only_when_the_journal_has_changed(bench, monkeypatch):
    made = []
    compute = trial_module.compute_way_back
    monkeypatch.setattr(trial_module, "compute_way_back", lambda *a, **k: (made.append(1), compute(*a, **k))[1])
    on_trial(bench)
    (offer,) = bench.executor.engine._offers.values()
    looked = lambda: offer.__self__._seen[0] == bench.context.database.changes  # noqa: E731
    bench.until(looked)
    quiet = len(made)
    time.sleep(0.3)  # several looks
    assert len(made) == quiet
    bench.context.event("something", "was journalled")
    bench.until(looked)
    assert len(made) > quiet
    quiet = len(made)
    _, envelope = command(bench, 1)
    bench.executor.intake.assignment(envelope)
    assert len(made) == quiet
    back_on_1(bench)


def test_what_is_journalled_a_moment_before_counts(bench):
    on_trial(bench)
    made = []
    rules = bench.executor.plane.rules
    _, envelope = command(bench, 1)
    bench.executor.plane.rules = lambda rows=None: (made.append(rows), rules(rows))[1]
    bench.context.event("something", "was journalled")
    bench.executor.intake.assignment(envelope)
    assert made, "by the trial or by the command"
    back_on_1(bench)


def test_an_old_side_that_ended_is_revived_first(bench):
    on_trial(bench)
    (old,) = [one for one in bench.work.instances() if one.role is Role.OLD]
    bench.containers.exit(old.id, 1)
    bench.until(lambda: any(line.startswith("instance.exited") for line in bench.events()))
    _, envelope = command(bench, 1)
    bench.executor.intake.assignment(envelope)
    back_on_1(bench)
    assert bench.containers.observe(old.id).status.value == "running"


def test_root_on_the_node_goes_the_same_way(bench):
    first = on_trial(bench)
    row = bench.executor.intake.roll_back("web")
    assert row.to_counter == 1
    assert bench.work.history("web")[0].state is State.ROLLED_BACK
    assert ready(bench) == {1}
    back_on_1(bench)
    assert bench.outcomes(first)[-1] is Outcome.ROLLED_BACK


def break_commits(bench, monkeypatch):
    """The disk is full from now on; return what mends it."""
    database = bench.context.database
    commit = database._commit

    def fail():
        database._undo()
        raise Failed("cannot write to the journal: the disk is full")

    monkeypatch.setattr(database, "_commit", fail)
    return lambda: monkeypatch.setattr(database, "_commit", commit)


def test_told_on_a_full_disk_it_is_back_and_journalled_once_there_is_room(bench, monkeypatch):
    on_trial(bench)
    mend = break_commits(bench, monkeypatch)
    _, envelope = command(bench, 1)
    with pytest.raises(Failed):
        bench.executor.intake.assignment(envelope)
    assert ready(bench) == {1}
    assert bench.work.open_transaction("web").state is State.CHECKING
    mend()
    back_on_1(bench)
    bench.executor.intake.assignment(envelope)  # it was never journalled: no replay
    back_on_1(bench)


def test_failed_on_a_full_disk_it_stays_failed_though_its_checks_pass_again(bench, monkeypatch):
    first = on_trial(bench)
    mend = break_commits(bench, monkeypatch)
    bench.agent.sick.add("/bad")
    bench.until(lambda: ready(bench) == {1})
    bench.agent.sick.clear()
    mend()
    back_on_1(bench)
    assert bench.outcomes(first)[-1] is Outcome.ROLLED_BACK


def test_ended_between_switch_and_journal_it_swings_forward_and_is_told_again(bench, monkeypatch):
    on_trial(bench)
    break_commits(bench, monkeypatch)
    _, envelope = command(bench, 1)
    with pytest.raises(Failed):
        bench.executor.intake.assignment(envelope)
    bench.restart()
    row = bench.until_state("CHECKING")
    bench.until(lambda: row.id in bench.executor.engine._offers)
    assert ready(bench) == {2}
    assert bench.accepted.seq() == 0
    bench.executor.intake.assignment(envelope)
    assert ready(bench) == {1}
    back_on_1(bench)


@pytest.mark.parametrize("delay", [0, 20, 40, 60, 80])
def test_told_while_the_trial_ends_by_itself(bench, delay):
    """Whoever comes first: release 1 serves in the end, once, and every receipt chain ends."""
    first = on_trial(bench, update=Update(bake=60, checks=(), drain=100), offered=False)
    bench.until(lambda: Outcome.CUT_OVER in bench.outcomes(first))
    time.sleep(delay / 1000)
    nonce, envelope = command(bench, 1)
    bench.executor.intake.assignment(envelope)
    bench.until(lambda: bench.outcomes(nonce)[-1:] == [Outcome.COMMITTED])
    bench.settle()
    assert bench.counters() == [1]
    assert ready(bench) == {1}
    assert bench.outcomes(first)[-1] in (Outcome.ROLLED_BACK, Outcome.COMMITTED)
    assert len(bench.work.history("web")) in (2, 3)
