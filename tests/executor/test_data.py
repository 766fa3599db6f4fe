"""Data in transactions, on drivers in memory: whatever happens on the way, a release finds the data that is its own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from nebh.model.errors import Failed, NotFound
from nebh.model.kept import SnapshotKind
from nebh.model.service import Check, CheckKind, Stop, Update
from nebh.model.statement import Action, Order, Outcome, Phase
from nebh.model.transaction import State
from nebh.model.volume import (
    DataRules,
    Hook,
    HookPoint,
    OnFailureData,
    Unavailable,
    VolumeBound,
    VolumeClass,
    VolumeMount,
)

pytestmark = pytest.mark.slow

BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/bad", interval=100, failures=1)
DATA = VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20)
SHARED = VolumeBound(name="shared", kind=VolumeClass.SHARED_STATE, size=1 << 20)
MOUNTS = (VolumeMount(name="data", path="/data"), VolumeMount(name="shared", path="/both"))
BAKE = Update(bake=150, drain=100)


def release(number: int, **fields: Any) -> dict[str, Any]:
    """Return the fields of a release that writes its number when it starts."""
    program = f"append /data/rows {number};append /both/rows {number};sleep 1"
    return {
        "argv": ("/bin/sh", "-c", program),
        "volumes": MOUNTS,
        "data": DataRules(reads=(1,), writes=1),
        "update": BAKE,
        **fields,
    }


@pytest.fixture
def bench(new_bench):
    return new_bench(volumes=(DATA, SHARED))


def rows(bench, volume: str = "data") -> list[str]:
    path = bench.volumes.path(f"web.{volume}.0") / "rows"
    return path.read_text().split() if path.exists() else []


def deploy(bench, number: int, **fields: Any) -> None:
    bench.deploy(number, **release(number, **fields))


def fail(bench, number: int, *, until: str = "", **fields: Any) -> str:
    """Deploy a release whose check fails once it serves."""
    bench.agent.sick.add("/bad")
    bench.add_release(number, **release(number, update=Update(bake=20_000, checks=(BAD,), drain=100), **fields))
    nonce = bench.assign(number)
    if until:
        bench.until(lambda: any(one.startswith(until) for one in bench.events()))
    else:
        bench.settle()
    return nonce


def running(bench) -> list[str]:
    return [one for one in bench.containers.list() if bench.containers.observe(one).status.value == "running"]


def test_a_release_gets_its_volume_and_only_what_the_policy_knows(bench):
    deploy(bench, 1)
    (one,) = bench.serving()
    mounts = json.loads(bench.containers._containers[one.id].plan.config)["mounts"]
    (mount,) = [mount for mount in mounts if mount["destination"] == "/data"]
    assert mount["source"] == str(bench.volumes.path("web.data.0"))
    assert {"bind", "idmap", "rw", "nosuid", "nodev", "noexec"} == set(mount["options"])
    bench.add_release(2, **release(2, volumes=(*MOUNTS, VolumeMount(name="more", path="/more"))))
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.REFUSED
    assert "knows no volume more" in bench.receipts[-1].detail
    assert rows(bench) == ["1"]


def test_there_is_one_writer_and_a_snapshot_before_it(bench):
    deploy(bench, 1)
    (old,) = bench.serving()
    deploy(bench, 2)
    (new,) = bench.serving()
    calls = bench.containers.calls
    assert calls.index(("signal", old.id)) < calls.index(("start", new.id))
    (kept,) = [one for one in bench.context.volumes.snapshots("web") if one.volume == "data"]
    assert (kept.counter, kept.version, kept.whole, kept.kind) == (1, 1, True, SnapshotKind.RELEASE)
    assert (bench.volumes.snapshot_path("web.data.0", kept.name) / "rows").read_text() == "1\n"
    assert rows(bench) == ["1", "2"]
    assert bench.context.volumes.volume("web", 0, "data").counter == 2


def test_before_the_cut_over_all_data_comes_back(bench):
    deploy(bench, 1)
    bench.add_release(2, **release(2, argv=("/bin/sh", "-c", "append /data/rows x;append /both/rows x;exit 3")))
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert (rows(bench), rows(bench, "shared"), bench.counters()) == (["1", "1"], ["1", "1"], [1])
    assert bench.context.volumes.volume("web", 0, "data").counter == 1
    assert bench.context.volumes.snapshots("web") == (), "they are what the data is anyway"


def test_after_it_the_data_is_kept_where_the_old_release_reads_it(bench):
    deploy(bench, 1)
    nonce = fail(bench, 2)
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert (rows(bench), bench.counters()) == (["1", "2", "1"], [1])
    assert "data.kept" in "\n".join(bench.events())
    assert bench.context.volumes.volume("web", 0, "data").counter == 1, "it is the one who writes now"


def test_a_release_is_held_where_the_old_one_may_not_run_on_its_data(bench):
    deploy(bench, 1)
    fail(bench, 2, until="transaction.held", data=DataRules(reads=(1, 2), writes=2))
    assert "release 1 may not run on the data as it is now" in "\n".join(bench.events())
    refused = bench.assign(1)
    assert bench.outcome(refused) is Outcome.REFUSED, "a controller has no say over data"
    assert "--data restore" in bench.receipts[-1].hint
    assert bench.counters() == [2]
    bench.executor.engine.resume(bench.work.open_transaction("web"))
    bench.settle()
    assert bench.counters() == [2]
    bench.add_release(3, **release(3))
    nonce = bench.assign(3)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.REFUSED
    assert "the data has version 2" in bench.receipts[-1].detail


def test_the_policy_may_have_the_data_restored_and_what_was_written_is_put_aside(new_bench):
    bench = new_bench(volumes=(DATA, SHARED), on_failure_data=OnFailureData.RESTORE)
    deploy(bench, 1)
    fail(bench, 2)
    assert (rows(bench), rows(bench, "shared")) == (["1", "1"], ["1", "2", "1"]), "shared state stays"
    (aside,) = [one for one in bench.context.volumes.snapshots("web") if one.kind is SnapshotKind.DISCARDED]
    assert (bench.volumes.snapshot_path("web.data.0", aside.name) / "rows").read_text() == "1\n2\n"
    assert aside.until - aside.taken_at == DataRules.keep_discarded


@pytest.mark.parametrize("reboot", [False, True])
@pytest.mark.parametrize("verb", ["snapshot", "start"])
def test_a_crash_before_the_cut_over_leaves_the_old_data(bench, verb, reboot):
    deploy(bench, 1)
    gate = (bench.volumes if verb == "snapshot" else bench.containers).hang_next(verb)
    bench.add_release(2, **release(2))
    bench.assign(2)
    bench.until_state("STARTING")
    bench.until(
        lambda: any(one[0] == verb for one in (bench.volumes if verb == "snapshot" else bench.containers).calls[-3:])
    )
    bench.restart(reboot=reboot, patience=0.2)  # the thread hangs at the gate
    gate.set()
    bench.until(lambda: bench.counters() == [2])  # the release was not at fault, so it is tried again
    bench.settle()
    found = rows(bench)
    assert found[0] == "1"
    assert found[-1] == "2"
    assert found.count("2") == 1, "what the first try wrote is gone"


def test_a_reboot_while_it_is_checked_goes_forward_with_one_writer(bench):
    deploy(bench, 1)
    bench.add_release(2, **release(2, update=Update(bake=1500, drain=100)))
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    bench.restart(reboot=True)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert (rows(bench), len(running(bench))) == (["1", "2", "2"], 1)


def test_a_migration_runs_between_the_snapshot_and_the_new_release(bench):
    deploy(bench, 1)
    convert = Hook(
        name="convert", at=HookPoint.MIGRATE, argv=("/bin/sh", "-c", "append /data/rows c;echo 3 rows;exit 0")
    )
    deploy(bench, 2, hooks=(convert,), data=DataRules(reads=(1, 2), writes=2))
    assert rows(bench) == ["1", "c", "2"]
    (said,) = [one for one in bench.context.outbox.events_after(0, limit=500) if one.kind == "hook.ended"]
    assert said.facts["output"] == "3 rows"
    assert bench.context.volumes.volume("web", 0, "data").version == 2


@pytest.mark.parametrize(
    ("program", "timeout", "said"),
    [
        ("append /data/rows half;exit 9", 5000, "exited with code 9"),
        ("append /data/rows half;sleep 9", 300, "longer than"),
    ],
)
def test_a_migration_that_fails_or_hangs_leaves_the_old_data(bench, program, timeout, said):
    deploy(bench, 1)
    convert = Hook(name="convert", at=HookPoint.MIGRATE, argv=("/bin/sh", "-c", program), timeout=timeout)
    bench.add_release(2, **release(2, hooks=(convert,), data=DataRules(reads=(1, 2), writes=2)))
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert said in bench.receipts[-1].detail
    assert (rows(bench), bench.counters()) == (["1", "1"], [1])
    assert bench.context.volumes.volume("web", 0, "data").version == 1


def test_a_pool_that_is_full_in_the_middle_of_a_snapshot_leaves_the_old_release(bench):
    deploy(bench, 1)
    bench.volumes.fail_next("snapshot", Failed("cannot snapshot volume web.data.0: the storage is full"))
    bench.add_release(2, **release(2))
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert "the storage is full" in bench.receipts[-1].detail
    assert (rows(bench), bench.counters()) == (["1", "1"], [1])


def test_old_snapshots_go_by_rule(bench):
    for number in range(1, 7):
        deploy(bench, number, data=DataRules(reads=(1,), writes=1, snapshots=2))
    kept = [one.counter for one in bench.context.volumes.snapshots("web") if one.volume == "data"]
    assert kept == [4, 5]
    (volume,) = [one for one in bench.volumes.list() if one.name == "web.data.0"]
    assert len(volume.snapshots) == 2


def test_a_restart_of_the_same_release_takes_no_snapshot(bench):
    deploy(bench, 1)
    bench.assign(1, phase=Phase.RESTART)
    bench.settle()
    assert (rows(bench), len(running(bench))) == (["1", "1"], 1)
    assert bench.context.volumes.snapshots("web") == ()


def test_a_failed_first_release_leaves_nobodys_data_to_the_next(bench):
    bench.add_release(1, **release(1, argv=("/bin/sh", "-c", "append /data/rows x;exit 3")))
    bench.assign(1)
    bench.settle()
    assert [one.state for one in bench.work.history("web")] == [State.ROLLED_BACK]
    deploy(bench, 2)
    assert rows(bench)[-1] == "2"


def restore(bench, counter: int, *, snapshot: str = "") -> str:
    """What the node does with an operator's order whose signature is fine."""
    bench.nonces += 1
    wish = Order(
        cluster_id="c" * 32,
        nodes=("d" * 64,),
        service="web",
        action=Action.RESTORE,
        nonce=f"{bench.nonces:032x}",
        signed_at=1,
        not_after=2**40,
        counter=counter,
        snapshot=snapshot,
    )
    with bench.executor.intake.lock:
        bench.executor.intake.orders.carry_out(wish)
    return wish.nonce


def test_an_operator_has_release_and_data_restored_and_undone(bench):
    deploy(bench, 1)
    deploy(bench, 2, data=DataRules(reads=(1, 2), writes=2))
    nonce = restore(bench, 1)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert (rows(bench), bench.counters()) == (["1", "1"], [1])
    assert rows(bench, "shared") == ["1", "2", "1"]
    assert bench.context.volumes.volume("web", 0, "data").version == 1
    (aside,) = [one for one in bench.context.volumes.snapshots("web") if one.kind is SnapshotKind.DISCARDED]
    assert (aside.counter, aside.version) == (2, 2)
    nonce = restore(bench, 0, snapshot=aside.name)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert (rows(bench), bench.counters()) == (["1", "2", "2"], [2])


def test_a_restore_whose_release_does_not_start_leaves_everything_as_it_was(bench):
    deploy(bench, 1)
    deploy(bench, 2)
    bench.containers.fail_next("start", Failed("cannot start"))
    nonce = restore(bench, 1)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert (rows(bench), bench.counters()) == (["1", "2", "2"], [2])


def test_an_operator_ends_a_held_release_with_the_data_restored(bench):
    deploy(bench, 1)
    fail(bench, 2, until="transaction.held", data=DataRules(reads=(1, 2), writes=2))
    nonce = restore(bench, 0)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert (rows(bench), bench.counters()) == (["1", "1"], [1])


def test_what_no_snapshot_holds_cannot_be_restored(bench):
    deploy(bench, 1)
    deploy(bench, 2)
    with pytest.raises(NotFound) as caught:
        restore(bench, 7)
    assert "there is no snapshot of release 7" in caught.value.message
    assert "t2 (release 1)" in caught.value.hint


def test_who_reads_newer_data_does_not_make_it_older(bench):
    deploy(bench, 1, data=DataRules(reads=(1, 2), writes=1))
    deploy(bench, 2, data=DataRules(reads=(1, 2), writes=2))
    bench.assign(1)
    bench.settle()
    assert bench.counters() == [1]
    assert bench.context.volumes.volume("web", 0, "data").version == 2


def test_migrations_run_when_the_release_is_new_or_the_data_is_older(bench):
    convert = Hook(name="convert", at=HookPoint.MIGRATE, argv=("/bin/sh", "-c", "append /data/rows c;exit 0"))
    deploy(bench, 1)
    deploy(bench, 2, hooks=(convert,), data=DataRules(reads=(1, 2), writes=2))
    deploy(bench, 3, hooks=(convert,), data=DataRules(reads=(1, 2), writes=2))
    assert rows(bench) == ["1", "c", "2", "c", "3"]
    bench.assign(2)
    bench.settle()
    assert rows(bench)[5:] == ["2"], "it has run here before, on this data"
    restore(bench, 1)
    bench.settle()
    bench.assign(2)
    bench.settle()
    assert rows(bench) == ["1", "1", "c", "2"], "now its data is older"


@pytest.mark.parametrize("unavailable", [Unavailable.STOP, Unavailable.FREEZE])
def test_a_service_waits_for_its_storage_and_comes_back(new_bench, unavailable):
    bench = new_bench(volumes=(replace(DATA, unavailable=unavailable), replace(SHARED, unavailable=unavailable)))
    deploy(bench, 1, stop=Stop(signal="TERM", grace=10_000))
    (one,) = bench.serving()
    bench.context.look_at_storage = lambda: "it is away"
    bench.volumes.fail_next("check", Failed("away"))
    bench.executor.supervisor._keep_storage()
    if unavailable is Unavailable.FREEZE:
        assert one.id in bench.containers.frozen
    else:
        assert bench.containers.calls[-1] == ("signal", one.id)
        assert one.id in running(bench), "it is asked first; this one does not listen"
        bench.executor.supervisor._storage._end_slow(bench.context.clock.monotonic() + 11)
        bench.until(lambda: one.id not in running(bench))
    bench.executor.supervisor.revive(one)
    assert (one.id in running(bench)) is (unavailable is Unavailable.FREEZE), "it is not started while its data is away"
    bench.context.look_at_storage = lambda: ""
    bench.executor.supervisor._keep_storage()
    assert bench.executor.supervisor._storage.is_gone, "the first look found it away still"
    bench.executor.supervisor._keep_storage()
    bench.until(lambda: one.id in running(bench) and one.id not in bench.containers.frozen)
    assert "storage.back" in "\n".join(bench.events())


def test_a_storage_in_trouble_is_told_once_and_its_services_run_on(bench):
    deploy(bench, 1)
    (one,) = bench.serving()
    told = lambda: "\n".join(bench.events()).count("storage.trouble")  # noqa: E731
    bench.context.storage_warning = lambda: ("the pool could not grow", "make room")
    for _ in range(3):
        bench.executor.supervisor._keep_storage()
    assert (told(), one.id in running(bench)) == (1, True)
    bench.context.storage_warning = lambda: ("", "")
    bench.executor.supervisor._keep_storage()
    bench.context.storage_warning = lambda: ("it could not grow again", "make room")
    bench.executor.supervisor._keep_storage()
    assert told() == 2


def test_a_cache_does_not_make_a_service_stop(new_bench):
    cache = VolumeBound(name="data", kind=VolumeClass.CACHE, size=1 << 20)
    bench = new_bench(volumes=(cache,))
    fields = {"volumes": (MOUNTS[0],), "data": DataRules(), "argv": ("/bin/sh", "-c", "append /data/rows x;sleep 1")}
    bench.deploy(1, **fields, update=BAKE)
    (old,) = bench.serving()
    bench.deploy(2, **fields, update=BAKE)
    (new,) = bench.serving()
    calls = bench.containers.calls
    assert calls.index(("start", new.id)) < calls.index(("signal", old.id))
    assert rows(bench) == ["x", "x"]
    assert bench.context.volumes.snapshots("web") == ()


def test_a_release_that_gives_its_data_up_still_ends_the_one_that_writes_it_first(bench):
    deploy(bench, 1)
    (old,) = bench.serving()
    bench.deploy(2, update=BAKE)
    (new,) = bench.serving()
    calls = bench.containers.calls
    assert calls.index(("signal", old.id)) < calls.index(("start", new.id))
    assert rows(bench) == ["1"], "the data stays"


def test_each_allocation_has_data_of_its_own(bench):
    deploy(bench, 1)
    (first,) = bench.serving()
    nonce = bench.assign(1, replicas=2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED, bench.events()[-3:]
    assert {one.replica for one in bench.serving()} == {0, 1}
    assert first.id in running(bench), "it goes on"
    assert rows(bench) == ["1"]
    assert (bench.volumes.path("web.data.1") / "rows").read_text() == "1\n"
