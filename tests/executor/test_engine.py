"""Transactions on drivers in memory: what runs, what serves, what is said, whatever happens on the way."""

from __future__ import annotations

import pytest

from nebh.model.errors import Conflict, Failed
from nebh.model.network import SlotCounters, SlotState
from nebh.model.policy import ServiceState
from nebh.model.service import Check, CheckKind, OnFailure, Update
from nebh.model.statement import Outcome, Phase
from nebh.model.transaction import State
from nebh.model.work import Role, Wanted

BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/bad", interval=100, failures=1)


def agree(bench, counter: int, replicas: int = 1) -> None:
    """Journal, containers, rules, names and slots tell the same."""
    rows = bench.serving()
    assert [one.counter for one in rows] == [counter] * replicas
    names = tuple(sorted(one.id for one in rows))
    assert bench.containers.list() == names
    assert {net.link.pair.v4 for net in bench.networks.rules.instances if net.serving} == {
        link.pair.v4 for link in bench.networks.attached.values()
    }
    assert len(bench.networks.attached) == replicas == len(bench.dns.records.services["web"])
    ready = {number for (_, number), slot in bench.ingress.slots.items() if slot.state is SlotState.READY}
    assert ready == {one.slot for one in rows}


def test_first_deploy_and_update(bench):
    bench.deploy(1)
    agree(bench, 1)
    bench.deploy(2)
    agree(bench, 2)
    assert bench.work.service("web").counter == 2
    assert [row.state for row in bench.work.history("web")] == [State.COMMITTED] * 2


def test_receipts_tell_every_step(bench):
    bench.add_release(1)
    nonce = bench.assign(1)
    bench.settle()
    steps = [Outcome.ACCEPTED, Outcome.PREPARED, Outcome.CUT_OVER, Outcome.HEALTHY, Outcome.COMMITTED]
    assert bench.outcomes(nonce) == steps
    assert bench.receipts[-1].phases.keys() >= {"preparing", "starting", "checking"}


def test_a_failing_check_rolls_back_and_marks(bench):
    bench.deploy(1)
    bench.agent.sick.add("/bad")
    bench.add_release(2, update=Update(bake=5000, checks=(BAD,), drain=100))
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    agree(bench, 1)
    assert "check bad" in bench.accepted.release_row("web", 1, 2).failed
    assert len(bench.work.history("web")) == 2, "it is not tried again"


def test_a_crash_during_the_bake_rolls_back(bench):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=20_000, drain=100))
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    (new,) = bench.serving()
    bench.containers.exit(new.id, 3)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert "exited with code 3" in bench.receipts[-1].detail
    agree(bench, 1)


def test_errors_at_the_proxy_during_the_bake_roll_back(bench):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=20_000, drain=100, max_error_percent=5))
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    (new,) = bench.serving()
    looks = bench.ingress.looks
    bench.until(lambda: bench.ingress.looks > looks + 2)  # the first look is the base
    bench.ingress.counts["web:8080", new.slot] = SlotCounters(current=0, queued=0, total=100, errors=50, average_ms=1)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert "50 of 100" in bench.receipts[-1].detail


def test_never_ready_rolls_back_without_a_cut_over(bench):
    bench.deploy(1)
    bench.containers.fail_next("start", Failed("cannot start"))
    bench.add_release(2)
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcomes(nonce) == [Outcome.ACCEPTED, Outcome.PREPARED, Outcome.ROLLED_BACK]
    agree(bench, 1)


def test_a_missing_object_drops(bench):
    bench.deploy(1)
    bench.add_release(2, fetchable=False)
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.FAILED
    agree(bench, 1)


def test_a_refusal_is_receipted_with_its_rule(bench):
    bench.refuse = "N6"
    nonce = bench.assign(7)
    bench.settle()
    assert (bench.receipts[-1].nonce, bench.receipts[-1].outcome, bench.receipts[-1].rule) == (
        nonce,
        Outcome.REFUSED,
        "N6",
    )


def test_prepare_waits_for_run(bench):
    bench.deploy(1)
    bench.add_release(2)
    first = bench.assign(2, phase=Phase.PREPARE)
    bench.until_state("PREPARED")
    assert bench.counters() == [1]
    assert {one.role for one in bench.work.instances()} == {Role.SERVING, Role.NEW}
    second = bench.assign(2)
    bench.settle()
    assert bench.outcome(first) is Outcome.PREPARED
    assert bench.outcome(second) is Outcome.COMMITTED
    agree(bench, 2)


def test_prepared_is_found_prepared_again_after_a_crash(bench):
    bench.deploy(1)
    bench.add_release(2)
    bench.assign(2, phase=Phase.PREPARE)
    bench.until_state("PREPARED")
    bench.restart()
    bench.until_state("PREPARED")
    bench.assign(2)
    bench.settle()
    agree(bench, 2)


def test_run_told_at_the_very_end_of_preparing_is_heard(bench):
    bench.deploy(1)
    for counter in range(2, 8):
        bench.add_release(counter)
        bench.assign(counter, phase=Phase.PREPARE)
        bench.until_state("PREPARED")
        bench.assign(counter)  # the preparing thread may still be ending
        bench.settle()
    agree(bench, 7)


def test_cancelled_while_prepared_starts_nothing(bench):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=100, overlap=False, drain=100))
    bench.assign(2, phase=Phase.PREPARE)
    row = bench.until_state("PREPARED")
    bench.containers.calls.clear()
    bench.executor.engine.cancel(row, "an operator said abort")
    bench.settle()
    assert bench.work.history("web")[0].state is State.DROPPED
    assert [name for verb, name in bench.containers.calls if verb in ("start", "signal")] == []
    agree(bench, 1)


def test_a_newer_command_takes_the_place(bench):
    bench.deploy(1)
    bench.add_release(2)
    bench.add_release(3)
    bench.agent.gate.clear()
    first = bench.assign(2)
    bench.until_state("PREPARING")
    second = bench.assign(3)
    bench.agent.gate.set()
    bench.settle()
    assert bench.outcome(first) is Outcome.FAILED
    assert bench.outcome(second) is Outcome.COMMITTED
    agree(bench, 3)


def test_a_newer_command_survives_a_crash_while_it_waits(bench):
    bench.deploy(1)
    bench.add_release(2)
    bench.add_release(3)
    bench.agent.gate.clear()
    bench.assign(2)
    bench.until_state("PREPARING")
    bench.executor.engine.cancel(bench.work.open_transaction("web"), "a newer command")
    bench.agent.gate.set()
    bench.restart()
    bench.settle()
    assert bench.work.history("web")[0].state is State.DROPPED, "the cancellation is not forgotten"
    agree(bench, 1)


def test_busy_after_the_cut_over(bench):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=20_000, drain=100))
    bench.add_release(3)
    bench.assign(2)
    bench.until_state("CHECKING")
    nonce = bench.assign(3)
    assert (bench.receipts[-1].nonce, bench.receipts[-1].rule) == (nonce, "busy")
    bench.executor.engine.cancel(bench.work.open_transaction("web"), "an operator said abort")
    bench.settle()
    agree(bench, 1)


def test_the_same_again_is_so_already(bench):
    bench.deploy(1)
    nonce = bench.assign(1)
    assert bench.outcomes(nonce) == [Outcome.COMMITTED]
    assert len(bench.work.history("web")) == 1


@pytest.mark.parametrize("keeps", [True, False])
def test_hold_waits_for_an_operator(bench, keeps):
    bench.deploy(1)
    bench.agent.sick.add("/bad")
    bench.add_release(2, update=Update(bake=5000, checks=(BAD,), drain=100, on_failure=OnFailure.HOLD))
    nonce = bench.assign(2)
    bench.until(lambda: any(line.startswith("transaction.held") for line in bench.events()))
    row = bench.work.open_transaction("web")
    assert bench.counters() == [2]
    if keeps:
        bench.executor.engine.resume(row)
    else:
        bench.executor.engine.cancel(row, "an operator said abort")
    bench.settle()
    assert bench.outcome(nonce) is (Outcome.COMMITTED if keeps else Outcome.ROLLED_BACK)
    agree(bench, 2 if keeps else 1)


def test_without_overlap_the_old_side_ends_first_and_comes_back(bench):
    bench.deploy(1)
    bench.agent.sick.add("/bad")
    bench.add_release(2, update=Update(bake=5000, checks=(BAD,), drain=100, overlap=False))
    (old,) = bench.serving()
    bench.containers.calls.clear()
    bench.assign(2)
    bench.settle()
    calls = [call for call in bench.containers.calls if call[0] in ("signal", "start")]
    assert calls[0] == ("signal", old.id)
    assert ("start", old.id) in calls, "it was started again"
    agree(bench, 1)


def test_scale_keeps_what_runs(bench):
    bench.deploy(1)
    (first,) = bench.serving()
    bench.assign(1, replicas=3)
    bench.settle()
    agree(bench, 1, replicas=3)
    assert first.id in {one.id for one in bench.serving()}
    bench.assign(1, replicas=2)
    bench.settle()
    agree(bench, 1, replicas=2)
    bench.add_release(2)
    bench.assign(2, replicas=2)
    bench.settle()
    agree(bench, 2, replicas=2)


def test_restart_makes_new_instances_of_the_same_release(bench):
    bench.deploy(1)
    (before,) = bench.serving()
    bench.assign(1, phase=Phase.RESTART)
    bench.settle()
    assert bench.serving()[0].id != before.id
    agree(bench, 1)


def test_policies_stop_and_start(bench):
    bench.deploy(1)
    bench.set_policy(version=2, state=ServiceState.STOPPED)
    bench.executor.intake.follow_policies()
    bench.settle()
    assert (bench.serving(), bench.containers.list()) == ((), ())
    assert bench.work.service("web").wanted is Wanted.STOPPED
    bench.set_policy(version=3)
    bench.executor.intake.follow_policies()
    bench.settle()
    agree(bench, 1)


def test_removal_leaves_only_release_history_even_when_cut_short(bench):
    bench.deploy(1)
    service = bench.work.service("web")
    bench.executor.intake.begin(
        service="web", kind="remove", epoch=1, counter=service.counter, replicas=0, nonce="a" * 32
    )
    bench.settle()
    bench.until(lambda: bench.accepted.policy("web") is None)
    assert bench.outcome("a" * 32) is Outcome.REMOVED
    assert bench.containers.list() == ()
    assert bench.accepted.release_row("web", 1, 1) is not None
    assert bench.networks.attached == {}


def test_a_removal_is_finished_by_the_next_executor(bench):
    bench.deploy(1)
    bench.work.set_service("web", epoch=1, counter=1, replicas=0, wanted=Wanted.REMOVED)
    bench.work.set_roles({one.id: Role.LEAVING for one in bench.serving()})
    bench.restart()
    bench.until(lambda: bench.accepted.policy("web") is None)
    bench.settle()
    assert bench.containers.list() == ()
    assert bench.work.service("web").counter == 0


def test_a_moved_port_reaches_the_new_side(bench):
    bench.deploy(1)
    moved = Check(name="moved", kind=CheckKind.HTTP, port=9090, interval=100)
    from nebh.model.service import Health

    bench.add_release(2, ports={"http": 9090}, health=Health(readiness=moved), update=Update(bake=100, drain=100))
    bench.assign(2)
    bench.settle()
    (one,) = bench.serving()
    assert bench.ingress.slots["web:8080", one.slot].port == 9090
    agree(bench, 2)


def test_retention_keeps_the_newest_trees(bench):
    for counter in range(1, 7):
        bench.deploy(counter, retention=3)
    bench.until(lambda: len(list(bench.context.layout.trees.iterdir())) == 3)
    kept = {bench.accepted.release("web", 1, counter).images["main"].manifest for counter in (4, 5, 6)}
    assert {path.name for path in bench.context.layout.trees.iterdir()} == kept
    row = bench.executor.intake.roll_back("web")
    bench.settle()
    assert row.to_counter == 5
    agree(bench, 5)


def test_one_transaction_at_a_time(bench):
    bench.deploy(1)
    bench.add_release(2)
    bench.agent.gate.clear()
    bench.assign(2)
    bench.until_state("PREPARING")
    with pytest.raises(Conflict):
        bench.executor.intake.begin(service="web", kind="deploy", epoch=1, counter=2, replicas=1, nonce="")
    bench.agent.gate.set()
    bench.settle()


# restarts of the executor


def die_starting(bench, gate):
    """End this executor inside the start of a container, without another word in its journal."""
    bench.until_state("STARTING")
    bench.until(lambda: bench.containers.calls[-1][0] == "start")
    bench.executor.context.stopping.set()
    bench.containers.fail_next("start", Failed("the executor is dead"))
    gate.set()
    bench.restart()


def test_a_crash_while_starting_goes_back_and_tries_again(bench):
    bench.deploy(1)
    bench.add_release(2)
    gate = bench.containers.hang_next("start")
    nonce = bench.assign(2)
    die_starting(bench, gate)
    bench.settle()
    assert [row.state for row in bench.work.history("web")[:2]] == [State.COMMITTED, State.ROLLED_BACK]
    assert bench.work.history("web")[0].attempt == 2
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert bench.accepted.release_row("web", 1, 2).failed == ""
    agree(bench, 2)


def test_a_crash_every_time_ends_after_three_tries(bench):
    bench.deploy(1)
    bench.add_release(2)
    gates = [bench.containers.hang_next("start") for _ in range(3)]
    bench.assign(2)
    for gate in gates:
        die_starting(bench, gate)
    bench.settle()
    states = [(row.attempt, row.state) for row in bench.work.history("web")[:3]]
    assert states == [(3, State.ROLLED_BACK), (2, State.ROLLED_BACK), (1, State.ROLLED_BACK)]
    agree(bench, 1)


@pytest.mark.parametrize("reboot", [False, True])
def test_a_crash_while_checking_goes_forward(bench, reboot):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=1500, checks=(), drain=100))
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    bench.restart(reboot=reboot)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED
    agree(bench, 2)


def test_a_reboot_starts_what_was_committed(bench):
    bench.deploy(1)
    bench.assign(1, replicas=2)
    bench.settle()
    bench.restart(reboot=True)
    assert all(slot.state is not SlotState.READY for slot in bench.ingress.slots.values()) or bench.containers.list()
    bench.until(lambda: not bench.executor.plane.resting)
    agree(bench, 1, replicas=2)


def test_a_new_instance_without_transaction_leaves(bench):
    bench.deploy(1)
    from dataclasses import replace

    (one,) = bench.serving()
    stray = replace(one, id="web-9-0-99", role=Role.NEW, txn=9999, address=4000, slot=7, counter=1)
    bench.work.add_instance(stray)
    bench.restart()
    bench.settle()
    agree(bench, 1)


# supervision


def test_an_ended_instance_is_made_anew_in_its_place(bench):
    bench.deploy(1)
    (one,) = bench.serving()
    bench.containers.exit(one.id, 1)
    bench.until(
        lambda: (
            bench.work.instance(one.id).restarts == 1
            and not bench.executor.plane.resting
            and bench.containers.observe(one.id).status.value == "running"
        )
    )
    bench.until(lambda: any(line.startswith("instance.ready") for line in bench.events()))
    agree(bench, 1)


def test_an_instance_whose_monitor_was_killed_is_made_anew(bench):
    bench.deploy(1)
    (one,) = bench.serving()
    before = bench.containers.observe(one.id).pid
    bench.containers.end_conmon(one.id)
    bench.until(lambda: bench.containers.observe(one.id).pid not in (0, before) and not bench.executor.plane.resting)
    bench.until(lambda: any(line.startswith("instance.ready") for line in bench.events()))
    agree(bench, 1)


def test_a_restart_in_the_way_of_leaving_leaves_nothing(bench):
    bench.deploy(1)
    for counter in range(2, 6):
        (old,) = bench.serving()
        bench.containers.exit(old.id, 1)
        bench.add_release(counter)
        bench.assign(counter)
        bench.settle()
        agree(bench, counter)


def test_a_killed_proxy_is_back_at_once(bench):
    bench.deploy(1)
    bench.ingress.kill()
    bench.until(lambda: bench.ingress.running, patience=3)
    agree(bench, 1)
    bench.ingress.kill()
    bench.until(lambda: bench.ingress.running, patience=3)


def test_stopping_ends_every_thread_without_a_word(bench, capfd):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=60_000, drain=100))
    bench.assign(2)
    bench.until_state("CHECKING")
    bench.executor.stop()
    assert not bench.executor.engine.busy()
    assert "Traceback" not in capfd.readouterr().err
    bench.executor = bench._executor()
    bench.executor.open()
    assert bench.work.open_transaction("web").state is State.CHECKING


def test_logs_that_a_power_cut_brought_back_go(bench):
    bench.deploy(1)
    bench.deploy(2)
    (kept,) = bench.work.former("web")
    (running,) = (one.id for one in bench.serving())
    for name in (kept, running, "web-9-0-9"):
        (bench.context.layout.logs / name).mkdir(parents=True)
        bench.containers._logs[name] = []
    bench.restart()
    assert bench.containers._logs.keys() == {kept, running}
