"""Rehearsals on drivers in memory: a release on a copy of its data, apart from all that serves, and nothing left."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from nebh.executor.rehearser import CUT_SHORT, ENDED
from nebh.model.errors import Conflict, Failed, NotFound
from nebh.model.local import LocalConfig
from nebh.model.rehearsal import DAY, RehearsalRule, Rehearsed
from nebh.model.service import Check, CheckKind, Health, Update
from nebh.model.statement import Action, Order, Outcome
from nebh.model.stored import Ability
from nebh.model.volume import DataRules, Hook, HookPoint, Quiesce, VolumeBound, VolumeClass, VolumeMount

pytestmark = pytest.mark.slow

DATA = VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20)
CACHE = VolumeBound(name="cache", kind=VolumeClass.CACHE, size=1 << 20)
MOUNTS = (VolumeMount(name="data", path="/data"), VolumeMount(name="cache", path="/cache"))
BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/bad", interval=100, failures=2)
CONVERT = Hook(name="convert", at=HookPoint.MIGRATE, argv=("/bin/sh", "-c", "append /data/rows converted;exit 0"))


def release(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "argv": ("/bin/sh", "-c", f"echo here is {number};append /data/rows {number};append /cache/rows x;sleep 1"),
        "volumes": MOUNTS,
        "data": DataRules(reads=(1,), writes=1),
        "update": Update(bake=150, drain=100),
        **fields,
    }


@pytest.fixture
def bench(new_bench):
    made = new_bench(volumes=(DATA, CACHE))
    made.deploy(1, **release(1))
    made.deploy(2, **release(2))
    return made


def order(bench, action: Action = Action.REHEARSE, counter: int = 0) -> str:
    """What the orders' desk does with an order whose signature is fine."""
    bench.nonces += 1
    nonce = f"{bench.nonces:032x}"
    wish = Order(
        cluster_id="c" * 32,
        nodes=("d" * 64,),
        service="web",
        action=action,
        nonce=nonce,
        signed_at=1,
        not_after=2,
        counter=counter,
    )
    with bench.executor.intake.lock, bench.context.database.atomically():
        bench.executor.intake.orders.carry_out(wish)
    return nonce


def rehearse(bench, counter: int = 0) -> Any:
    """Rehearse to the end; return the receipt."""
    nonce = order(bench, counter=counter)
    bench.until(lambda: bench.outcomes(nonce)[-1] is not Outcome.ACCEPTED)
    return bench.receipts[-1]


def steps(receipt: Any) -> list[str]:
    return [name[3:] for name in sorted(receipt.phases)]


def rows(bench, volume: str = "web.data.0") -> list[str]:
    return (bench.volumes.path(volume) / "rows").read_text().split()


def events(bench, kind: str) -> list[Any]:
    return [one for one in bench.context.outbox.events_after(0, limit=1000) if one.kind == kind]


def assert_nothing_left(bench) -> None:
    assert bench.context.rehearsals.rows() == ()
    assert bench.containers.list() == tuple(one.id for one in bench.serving())
    assert [one.name for one in bench.volumes.list()] == ["web.cache.0", "web.data.0"]
    assert bench.networks.links() == tuple(f"nebh{one.address:04x}" for one in bench.serving())
    assert not bench.containers.frozen
    assert not any(one.service == "APART" for one in bench.executor.plane.rules().instances)


def test_the_release_before_starts_on_a_copy_and_nothing_stays(bench):
    before, (serving,) = rows(bench), bench.serving()
    bench.containers.calls.clear()
    receipt = rehearse(bench)
    assert (receipt.outcome, receipt.counter) == (Outcome.REHEARSED, 1), receipt.detail
    assert steps(receipt) == ["prepare", "copy", "start", "readiness good", "up"]
    assert rows(bench) == before == ["1", "2"], "what serves has its data untouched"
    assert bench.serving() == (serving,)
    touched = {verb for verb, name in bench.containers.calls if name == serving.id}
    assert touched <= {"freeze", "thaw"}, "it stood still for the copy and no longer"
    assert_nothing_left(bench)
    (told,) = events(bench, "rehearsal.passed")
    assert told.severity == "info"
    assert told.facts["readiness good"].startswith("ok")
    assert "the data as it is now" in told.message


def test_it_stands_apart_while_it_runs(bench):
    bench.agent.sick.add("/bad")
    bench.add_release(3, **release(3, health=Health(readiness=BAD, startup_timeout=60_000)))
    nonce = order(bench, counter=3)
    bench.until(lambda: any(one.startswith("web-3") for one in bench.containers.list()))
    (row,) = bench.context.rehearsals.rows()
    bench.until(lambda: bench.containers.observe(row.id).status.value == "running")
    rules = bench.executor.plane.rules()
    (apart,) = [one for one in rules.instances if one.link.name == f"nebh{row.address:04x}"]
    assert (apart.service, apart.serving) == ("APART", False)
    assert not any("APART" in (one.source, one.target) for one in rules.allows)
    assert "APART" not in rules.egress
    assert all(slot.address != apart.link.pair.v4 for one in bench.executor.plane.plan().backends for slot in one.slots)
    assert row.id not in [one.id for one in bench.work.instances()]
    with pytest.raises(Conflict, match="a rehearsal of web is under way"):
        order(bench)
    order(bench, Action.END_REHEARSAL)
    bench.until(lambda: bench.outcomes(nonce)[-1] is Outcome.FAILED)
    assert bench.receipts[-1].detail == ENDED
    assert_nothing_left(bench)


def test_a_newer_release_is_migrated_on_the_copy_alone(bench):
    fields = release(3, data=DataRules(reads=(1, 2), writes=2), hooks=(CONVERT,))
    bench.add_release(3, **fields, fetchable=True)
    receipt = rehearse(bench, 3)
    assert receipt.outcome is Outcome.REHEARSED, receipt.detail
    assert "hook convert" in steps(receipt)
    assert rows(bench) == ["1", "2"]
    assert bench.context.volumes.volume("web", 0, "data").version == 1
    assert bench.accepted.release_row("web", 1, 3).failed == ""
    assert_nothing_left(bench)


def test_a_failing_migration_is_told_with_what_it_said(bench):
    broken = Hook(name="convert", at=HookPoint.MIGRATE, argv=("/bin/sh", "-c", "echo no such column;exit 7"))
    bench.add_release(3, **release(3, data=DataRules(reads=(1, 2), writes=2), hooks=(broken,)))
    receipt = rehearse(bench, 3)
    assert receipt.outcome is Outcome.FAILED
    assert "exited with code 7" in receipt.detail
    (told,) = events(bench, "rehearsal.failed")
    assert (told.severity, told.facts["output"]) == ("warning", "no such column")
    assert "deployed as it is, release 3 would fail" in told.hint
    assert [one.severity for one in events(bench, "hook.failed")] == ["info"], "of it as a whole is said how it ended"
    assert_nothing_left(bench)


def test_a_failing_check_is_told_and_so_is_what_it_means_for_a_rollback(bench):
    bench.agent.sick.add("/bad")
    bench.add_release(3, **release(3, update=Update(bake=150, checks=(BAD,), drain=100)))
    receipt = rehearse(bench, 3)
    assert receipt.outcome is Outcome.FAILED
    assert "check bad failed 2 times" in receipt.detail
    assert steps(receipt)[-1] == "check bad"
    assert_nothing_left(bench)


def test_a_release_that_exits_is_no_rollback_target(bench):
    broken = release(1, argv=("/bin/sh", "-c", "echo bye;exit 3"))
    bench.add_release(4, **broken)
    receipt = rehearse(bench, 4)
    assert "exited with code 3" in receipt.detail
    assert events(bench, "rehearsal.failed")[-1].facts["output"] == "bye"
    assert_nothing_left(bench)


def test_data_that_it_cannot_read_comes_from_the_snapshot_it_last_had(bench):
    bench.deploy(3, **release(3, data=DataRules(reads=(1, 2), writes=2), hooks=(CONVERT,)))
    assert rows(bench) == ["1", "2", "converted", "3"]
    bench.containers.calls.clear()
    receipt = rehearse(bench, 2)
    assert receipt.outcome is Outcome.REHEARSED
    assert "the data of snapshot" in receipt.detail
    assert "freeze" not in [verb for verb, _ in bench.containers.calls], "a snapshot needs nobody to rest"
    for kept in bench.context.volumes.snapshots("web"):
        bench.context.volumes.forget_snapshot(kept)
    receipt = rehearse(bench, 2)
    assert receipt.outcome is Outcome.FAILED
    assert "the data has version 2" in receipt.detail
    assert_nothing_left(bench)


def test_a_declared_quiesce_takes_the_place_of_the_freeze(bench):
    bench.volumes.abilities |= {Ability.LIVE}  # a copy takes so long that it is frozen besides
    rest = Quiesce(before=("/bin/sh", "-c", "exit 0"), after=("/bin/sh", "-c", "exit 0"))
    bench.deploy(3, **release(3, data=DataRules(reads=(1,), writes=1, quiesce=rest)))
    (serving,) = bench.serving()
    bench.containers.calls.clear()
    assert rehearse(bench).outcome is Outcome.REHEARSED
    assert [verb for verb, name in bench.containers.calls if name == serving.id] == ["check", "check"]
    failing = Quiesce(before=("/bin/sh", "-c", "exit 1"), after=("/bin/sh", "-c", "exit 0"))
    bench.deploy(4, **release(4, data=DataRules(reads=(1,), writes=1, quiesce=failing)))
    receipt = rehearse(bench)
    assert "data.quiesce.before failed" in receipt.detail
    assert_nothing_left(bench)


def test_no_room_is_said_and_nothing_begins(bench):
    bench.context.config = LocalConfig(name="one", reserve=0, overlap_memory=0)
    receipt = rehearse(bench)
    assert receipt.outcome is Outcome.FAILED
    assert "no room to rehearse web" in receipt.detail
    assert "overlap_memory" in receipt.hint
    bench.context.config = LocalConfig(name="one", reserve=1 << 60)
    assert "no room" not in rehearse(bench).detail, "this storage does not say what is free"
    assert_nothing_left(bench)


def test_there_is_nothing_to_end_and_nothing_earlier(new_bench):
    bench = new_bench(volumes=(DATA, CACHE))
    with pytest.raises(NotFound, match="does not run here"):
        order(bench)
    bench.deploy(1, **release(1))
    with pytest.raises(NotFound, match="no rehearsal"):
        order(bench, Action.END_REHEARSAL)
    with pytest.raises(NotFound, match="no earlier release"):
        order(bench)


def test_an_update_that_begins_meanwhile_goes_first(bench):
    gate = bench.volumes.hang_next("clone")
    nonce = order(bench, counter=1)
    bench.until(lambda: bool(bench.containers.frozen))
    bench.add_release(3, **release(3))
    bench.assign(3)
    gate.set()
    bench.until(lambda: bench.outcomes(nonce)[-1] is Outcome.FAILED)
    bench.settle()
    assert any("an update of web began meanwhile" in one.detail for one in bench.receipts)
    assert_nothing_left(bench)


def test_a_crash_leaves_nothing_and_nobody_standing_still(bench):
    for verb in ("clone", "create", "start"):
        driver = bench.volumes if verb == "clone" else bench.containers
        gate = driver.hang_next(verb)
        nonce = order(bench)
        bench.until(lambda v=verb, d=driver: d.calls[-1][0] == v)
        if verb == "clone":
            assert bench.containers.frozen
        dying = bench.executor
        dying.context.stopping.set()
        dying.rehearser.stop = lambda: None
        bench.restart()
        assert not bench.containers.frozen, "before anything else"
        bench.until(lambda n=nonce: bench.outcome(n) is Outcome.FAILED)
        assert bench.receipts[-1].detail == CUT_SHORT
        gate.set()
        time.sleep(0.1)
        for one in [*bench.volumes.list()]:  # the hanging call of the dead one came through after all
            if one.name.startswith("rehearse."):
                bench.volumes.remove(one.name)
        for name in bench.containers.list():
            if name not in [one.id for one in bench.serving()]:
                bench.containers.delete(name)
        bench.settle()
        assert_nothing_left(bench)
    assert rehearse(bench).outcome is Outcome.REHEARSED


def test_what_cannot_be_taken_away_is_tried_again_and_told_afterwards(bench):
    bench.volumes.fail_next("remove", Failed("cannot remove: busy"))
    nonce = order(bench)
    bench.until(lambda: bool(events(bench, "rehearsal.left")))
    assert bench.outcome(nonce) is Outcome.ACCEPTED, "not before it is gone"
    bench.until(lambda: not bench.executor.rehearser._ours)
    bench.executor.rehearser.tick(bench.context.clock.now_ms())
    assert bench.outcome(nonce) is Outcome.REHEARSED
    assert_nothing_left(bench)


def test_the_schedule_rehearses_without_anybody(bench):
    rule = RehearsalRule(every=DAY, at=3 * 3_600_000)
    bench.deploy(3, **release(3, rehearse=rule))
    night = (bench.context.clock.now_ms() // DAY + 1) * DAY + rule.at
    rehearser = bench.executor.rehearser
    rehearser.tick(night - DAY)
    rehearser.tick(night - 1)
    assert bench.context.rehearsals.rows() == ()
    rehearser.tick(night + 1000)
    bench.until(lambda: bool(events(bench, "rehearsal.passed")))
    bench.until(lambda: not bench.context.rehearsals.rows())
    assert events(bench, "rehearsal.passed")[0].facts["counter"] == "2"
    rehearser.tick(night + 60_000)
    assert len(events(bench, "rehearsal.begun")) == 1, "once a night"
    bench.deploy(4, **release(4, rehearse=RehearsalRule(every=DAY, at=rule.at, release=Rehearsed.RUNNING)))
    rehearser.tick(night + DAY)
    bench.until(lambda: len(events(bench, "rehearsal.passed")) == 2)
    assert events(bench, "rehearsal.passed")[1].facts["counter"] == "4"


def test_the_schedule_waits_for_an_update_and_tells_of_a_broken_way_back(bench):
    bench.deploy(3, **release(3, rehearse=RehearsalRule(every=DAY)))
    rehearser, now = bench.executor.rehearser, bench.context.clock.now_ms()
    rehearser.tick(now)
    bench.agent.gate.clear()
    bench.add_release(4, **release(4, rehearse=RehearsalRule(every=DAY)))
    bench.assign(4)
    rehearser.tick(now + DAY)
    assert bench.context.rehearsals.rows() == ()
    bench.agent.gate.set()
    bench.settle()
    bench.agent.sick.add("/")
    stuck = threading.Thread(target=rehearser.tick, args=(now + DAY,))
    stuck.start()
    stuck.join(10)
    assert len(bench.context.rehearsals.rows()) == 1, "the next look found it due"
    order(bench, Action.END_REHEARSAL)
    bench.until(lambda: bool(events(bench, "rehearsal.failed")))
    told = events(bench, "rehearsal.failed")[-1]
    assert told.severity == "warning"
    assert "a rollback of web to release 3 would fail like this" in told.hint
    bench.agent.sick.clear()
