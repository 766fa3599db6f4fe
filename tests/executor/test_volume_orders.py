"""Snapshots, clones and deletions that an operator orders: nobody writes meanwhile, and a crash changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nebh.model.errors import BadInput, Conflict, Failed, NotFound, Refused
from nebh.model.kept import SnapshotKind
from nebh.model.service import Update
from nebh.model.statement import Action, Order, Outcome, Phase
from nebh.model.volume import DataRules, Quiesce, VolumeBound, VolumeClass, VolumeMount
from nebh.signing.statements import Seed, sign_statement

pytestmark = pytest.mark.slow

DATA = VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20)
SHARED = VolumeBound(name="shared", kind=VolumeClass.SHARED_STATE, size=1 << 20)
CACHE = VolumeBound(name="cache", kind=VolumeClass.CACHE, size=1 << 20)
PLACES = {"data": "/data", "shared": "/both", "cache": "/cache"}
MOUNTS = tuple(VolumeMount(name=name, path=path) for name, path in PLACES.items())
RULES = DataRules(reads=(1,), writes=1)
KEY = Seed(b"o" * 32)


@pytest.fixture
def bench(new_bench):
    return new_bench(volumes=(DATA, SHARED, CACHE))


def deploy(bench, number: int, **fields) -> None:
    program = f"append /data/rows {number};append /both/rows {number};sleep 1"
    more = {"volumes": MOUNTS, "data": RULES, "update": Update(bake=50, drain=50), **fields}
    bench.deploy(number, argv=("/bin/sh", "-c", program), **more)


def rows(bench, stored: str = "web.data.0") -> list[str]:
    return (bench.volumes.path(stored) / "rows").read_text().split()


def order(bench, action: Action, *, service: str = "web", **fields) -> str:
    """What the node does with an operator's order whose signature is fine."""
    bench.nonces += 1
    nonce = f"{bench.nonces:032x}"[::-1]
    wish = Order(
        cluster_id="c" * 32,
        nodes=("d" * 64,),
        service=service,
        action=action,
        nonce=nonce,
        signed_at=1,
        not_after=2,
        **fields,
    )
    orders = bench.executor.intake.orders
    with bench.executor.intake.lock, bench.context.database.atomically():
        orders._begin(wish, sign_statement("order", wish, KEY))
    return nonce


def ended(bench, nonce: str) -> Outcome:
    bench.until(lambda: bool(bench.outcomes(nonce)))
    return bench.outcome(nonce)


def detail(bench, nonce: str) -> str:
    return next(one.detail for one in bench.receipts if one.nonce == nonce)


def take(bench, **fields) -> str:
    nonce = order(bench, Action.SNAPSHOT, **fields)
    assert ended(bench, nonce) is Outcome.DONE, detail(bench, nonce)
    return f"m{nonce[:12]}"


def manual(bench) -> list[tuple[str, str]]:
    found = bench.context.volumes.snapshots("web")
    return sorted((one.volume, one.name) for one in found if one.kind is SnapshotKind.MANUAL)


def test_the_writer_stands_still_while_a_snapshot_is_taken(bench):
    deploy(bench, 1)
    (one,) = bench.serving()
    gate = bench.volumes.hang_next("snapshot")
    nonce = order(bench, Action.SNAPSHOT)
    bench.until(lambda: one.id in bench.containers.frozen)
    assert one.id in bench.context.at_rest
    gate.set()
    assert ended(bench, nonce) is Outcome.DONE
    assert (bench.containers.frozen, bench.context.at_rest) == (set(), set())
    assert manual(bench) == [("data", f"m{nonce[:12]}"), ("shared", f"m{nonce[:12]}")], "no cache"
    (kept,) = [row for row in bench.context.volumes.snapshots("web") if row.volume == "data"]
    assert (kept.counter, kept.version, kept.whole, kept.until) == (1, 1, True, 0)
    assert "nobody wrote for" in detail(bench, nonce)


def test_a_declared_hook_brings_the_writer_to_rest_and_back(bench):
    quiesce = Quiesce(before=("/bin/lock", "exit 0"), after=("/bin/unlock", "exit 0"))
    deploy(bench, 1, data=replace(RULES, quiesce=quiesce))
    bench.containers.calls.clear()
    take(bench)
    verbs = [verb for verb, _ in bench.containers.calls if verb in ("check", "freeze", "thaw")]
    assert verbs == ["check", "freeze", "thaw", "check"], "the storage copies: it needs more than an instant"
    deploy(bench, 2, data=replace(RULES, quiesce=Quiesce(before=("/bin/lock", "exit 7"))))
    nonce = order(bench, Action.SNAPSHOT)
    assert ended(bench, nonce) is Outcome.FAILED
    assert "data.quiesce.before failed" in detail(bench, nonce)
    assert len(manual(bench)) == 2, "only the first"


def test_what_cannot_be_kept_whole_is_not_kept(bench):
    deploy(bench, 1)
    bench.volumes.calls.clear()
    bench.volumes.fail_next("snapshot", Failed("the disk is full"))
    nonce = order(bench, Action.SNAPSHOT)
    assert (ended(bench, nonce), detail(bench, nonce)) == (Outcome.FAILED, "the disk is full")
    assert (manual(bench), bench.containers.frozen) == ([], set())
    assert [one.snapshots for one in bench.volumes.list()] == [(), (), ()]
    with pytest.raises(Refused, match="class cache, which has no snapshots"):
        order(bench, Action.SNAPSHOT, volume="cache")
    with pytest.raises(NotFound, match="no volume more of web"):
        order(bench, Action.SNAPSHOT, volume="more")


def test_one_volume_alone_is_kept_and_restored(bench):
    deploy(bench, 1)
    name = take(bench, volume="shared")
    assert manual(bench) == [("shared", name)]
    deploy(bench, 2)
    nonce = restore(bench, name)
    assert bench.outcome(nonce) is Outcome.COMMITTED, detail(bench, nonce)
    assert rows(bench, "web.shared.0") == ["1", "1"], "as it was, then release 1 once more"
    assert rows(bench) == ["1", "2", "1"], "the other one is as it was"


def restore(bench, name: str, counter: int = 0) -> str:
    wish = Order(
        cluster_id="c" * 32,
        nodes=("d" * 64,),
        service="web",
        action=Action.RESTORE,
        nonce=f"{bench.nonces + 900:032x}",
        signed_at=1,
        not_after=2,
        snapshot=name,
        counter=counter,
    )
    bench.nonces += 1
    with bench.executor.intake.lock:
        bench.executor.intake.orders.carry_out(wish)
    bench.settle()
    return wish.nonce


def test_a_manual_snapshot_outlives_every_update_and_comes_back_with_its_release(bench):
    deploy(bench, 1)
    name = take(bench)
    for number in range(2, 7):
        deploy(bench, number)
    assert ("data", name) in manual(bench)
    nonce = restore(bench, name)
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert (rows(bench), bench.counters()) == (["1", "1"], [1])
    with pytest.raises(Refused, match="reads: 9"):
        bench.add_release(7, volumes=MOUNTS, data=DataRules(reads=(9,), writes=9))
        restore(bench, name, counter=7)


def test_the_last_good_snapshot_stays_unless_it_is_forced(bench):
    deploy(bench, 1)
    name = take(bench)
    deploy(bench, 2)
    (last,) = {one.name for one in bench.context.volumes.snapshots("web") if one.kind is SnapshotKind.RELEASE}
    with pytest.raises(Refused, match="it is the last good one of data, shared"):
        order(bench, Action.DELETE_SNAPSHOT, snapshot=last)
    with pytest.raises(NotFound):
        order(bench, Action.DELETE_SNAPSHOT, snapshot="m0")
    assert ended(bench, order(bench, Action.DELETE_SNAPSHOT, snapshot=name)) is Outcome.DONE
    assert manual(bench) == []
    assert ended(bench, order(bench, Action.DELETE_SNAPSHOT, snapshot=last, force=True)) is Outcome.DONE
    assert bench.context.volumes.snapshots("web") == ()
    assert all(one.snapshots == () for one in bench.volumes.list())


def test_another_service_begins_with_a_clone(bench):
    deploy(bench, 1)
    name = take(bench)
    nonce = order(bench, Action.CLONE, snapshot=name, volume="data", target="copy/files")
    assert ended(bench, nonce) is Outcome.DONE, detail(bench, nonce)
    assert rows(bench, "copy.files.0") == ["1"]
    row = bench.context.volumes.volume("copy", 0, "files")
    assert (row.counter, row.version) == (0, 1), "nobody has written, and it is known what a release must read"
    again = order(bench, Action.CLONE, snapshot=name, volume="data", target="copy/files")
    assert ended(bench, again) is Outcome.DONE
    with pytest.raises(BadInput, match="names no other service"):
        order(bench, Action.CLONE, snapshot=name, target="web")
    full = order(bench, Action.CLONE, snapshot=name, target="copy/files")
    assert ended(bench, full) is Outcome.FAILED
    assert "holds several volumes" in detail(bench, full)
    bench.context.volumes.note_writer(row, epoch=1, counter=3, version=1)
    taken = order(bench, Action.CLONE, snapshot=name, volume="data", target="copy/files")
    assert ended(bench, taken) is Outcome.FAILED
    assert "release 3 of copy has written there" in detail(bench, taken)


def test_a_failed_first_release_leaves_the_clone_as_it_was(bench):
    deploy(bench, 1)
    row = bench.context.volumes.volume("web", 0, "data")
    bench.context.volumes.note_writer(row, epoch=0, counter=0, version=1)  # as a clone begins
    bench.add_release(2, argv=("/bin/sh", "-c", "append /data/rows x;exit 3"), volumes=MOUNTS, data=RULES)
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert "x" not in rows(bench)


def test_no_order_works_on_data_that_an_update_works_on(bench):
    deploy(bench, 1)
    name = take(bench)
    bench.add_release(2, volumes=MOUNTS, data=RULES)
    bench.assign(2, phase=Phase.PREPARE)
    bench.until_state("PREPARED")
    second = take(bench)
    with pytest.raises(Conflict, match="a transaction to release 2 is under way"):
        order(bench, Action.DELETE_SNAPSHOT, snapshot=name)
    gate = bench.volumes.hang_next("snapshot")
    third = order(bench, Action.SNAPSHOT)
    bench.until(lambda: bool(bench.containers.frozen))
    bench.executor.engine.resume(bench.work.open_transaction("web"))
    bench.until_state("STARTING")
    (old,) = [one for one in bench.work.instances("web") if one.counter == 1]
    assert bench.containers.observe(old.id).status.value == "running", "the update waits for the snapshot"
    gate.set()
    bench.settle()
    assert bench.counters() == [2]
    assert ended(bench, third) is Outcome.DONE
    assert {name, second, f"m{third[:12]}"} == {one for _, one in manual(bench)}


def test_a_crash_in_the_middle_is_followed_by_the_whole_snapshot(bench):
    deploy(bench, 1)
    gate = bench.volumes.hang_next("snapshot")
    nonce = order(bench, Action.SNAPSHOT)
    (one,) = bench.serving()
    bench.until(lambda: one.id in bench.containers.frozen)
    bench.executor.context.stopping.set()
    hung = bench.executor.intake.orders.volumes
    bench.volumes.fail_next("snapshot", Failed("this program ends"))
    gate.set()
    bench.until(lambda: not hung.busy())
    assert bench.outcomes(nonce) == [], "nobody said what became of it"
    bench.containers.frozen.add(one.id)  # as a SIGKILL would have left it
    bench.restart()
    assert ended(bench, nonce) is Outcome.DONE
    assert bench.containers.frozen == set()
    assert len(manual(bench)) == 2
    assert json.loads(json.dumps(bench.context.volumes.open_orders())) == []
