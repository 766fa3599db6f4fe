"""Backups on drivers in memory: what is due is done once, whatever is killed, and what an order names comes back."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from nebh.drivers.backups.fake import FakeBackups
from nebh.executor import backup_store, backups
from nebh.model.backup import BackupRetention, BackupRow, BackupRule, BackupWish
from nebh.model.errors import BadInput, Failed, NotFound, Refused, Unreachable
from nebh.model.kept import SnapshotKind
from nebh.model.service import Update
from nebh.model.statement import Action, Order, Outcome
from nebh.model.stored import Ability
from nebh.model.volume import DataRules, Quiesce, VolumeBound, VolumeClass, VolumeMount

pytestmark = pytest.mark.slow

DATA = VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20)
FILES = VolumeBound(name="files", kind=VolumeClass.BULK, size=1 << 20)
SCRATCH = VolumeBound(name="scratch", kind=VolumeClass.CACHE, size=1 << 20)
MOUNTS = tuple(VolumeMount(name=name, path=f"/{name}") for name in ("data", "files", "scratch"))
RULE = BackupRule(to="/srv/backups", password="backup-password", every=30 * 86_400_000)


class Stores:
    """Opens one fake store for everybody, as often as asked."""

    def __init__(self, folder) -> None:
        self.fake = FakeBackups(folder)
        self.wishes: list[Any] = []

    def __call__(self, wish):
        self.wishes.append(wish)
        return self.fake


@pytest.fixture
def stores(tmp_path, monkeypatch):
    made = Stores(tmp_path / "store")
    monkeypatch.setattr(backups, "LOOK_S", 0.05)
    monkeypatch.setattr(backup_store, "open_for_node", lambda _, service, names: dict.fromkeys(names, service.encode()))
    return made


@pytest.fixture
def new(new_bench, stores):
    def make(rule: BackupRule | None = RULE, **policy: Any):
        bench = new_bench(volumes=(DATA, FILES, SCRATCH), backup=rule, **policy)
        bench.stores = stores
        return bench

    return make


@pytest.fixture
def bench(new, monkeypatch):
    monkeypatch.setattr(backups.plan, "spread", lambda *_, **__: 10**12)  # nothing is due by itself
    monkeypatch.setattr("nebh.executor.prepare.fetch_secrets", lambda *_, **__: None)
    return new()


def deploy(bench, number: int, **fields: Any) -> None:
    program = f"append /data/rows {number};append /files/rows {number};append /scratch/rows {number};sleep 1"
    wish = {
        "argv": ("/bin/sh", "-c", program),
        "volumes": MOUNTS,
        "data": DataRules(reads=(1,), writes=1),
        "update": Update(bake=100, drain=50),
        **fields,
    }
    bench.deploy(number, **wish)


def rows(bench, volume: str = "data") -> list[str]:
    return (bench.volumes.path(f"web.{volume}.0") / "rows").read_text().split()


def order(bench, action: Action, *, counter: int = 0, wish: BackupWish | None = None, service: str = "web") -> str:
    """What the node does with an operator's order whose signature is fine."""
    bench.nonces += 1
    order = Order(
        cluster_id="c" * 32,
        nodes=("d" * 64,),
        service=service,
        action=action,
        nonce=f"{bench.nonces:032x}",
        signed_at=1,
        not_after=2**40,
        counter=counter,
        backup=wish,
    )
    with bench.executor.intake.lock, bench.context.database.atomically():
        bench.executor.intake.orders.carry_out(order)
    return order.nonce


def back_up(bench) -> tuple[BackupRow, ...]:
    nonce = order(bench, Action.BACKUP)
    bench.until(lambda: bench.outcomes(nonce) != [])
    assert bench.outcome(nonce) is Outcome.DONE, bench.receipts[-1]
    newest = bench.context.backups.rows("web")[-1].run
    return tuple(one for one in bench.context.backups.rows("web") if one.run == newest)


def test_a_backup_is_of_one_moment_and_leaves_nothing_behind(bench, stores):
    deploy(bench, 1, data=DataRules(reads=(3,), writes=3))
    made = back_up(bench)
    assert [(one.volume, one.counter, one.version, one.source) for one in made] == [
        ("data", 1, 3, "one"),
        ("files", 1, 3, "one"),
    ]
    assert {one.id for one in stores.fake.list()} == {one.id for one in made}
    assert bench.context.volumes.snapshots("web") == ()
    assert all(one.snapshots == () for one in bench.volumes.list())
    calls = bench.containers.calls
    (serving,) = bench.serving()
    assert [verb for verb, name in calls if verb in ("freeze", "thaw") and name == serving.id] == ["freeze", "thaw"]
    assert stores.wishes[0].part == "web/one"
    assert stores.wishes[0].secrets == {"backup-password": b"web"}
    assert all(one.writes == () for one in stores.wishes)


def test_the_declared_programs_run_around_the_snapshot(bench):
    bench.volumes.abilities |= {Ability.LIVE}  # a copy takes so long that it is frozen besides
    quiet = Quiesce(before=("/bin/pause",), after=("/bin/resume",))
    deploy(bench, 1, data=DataRules(reads=(1,), writes=1, quiesce=quiet))
    before = len(bench.containers.calls)
    back_up(bench)
    asked = [one for one in bench.containers.calls[before:] if one[0] in ("check", "freeze", "thaw")]
    assert [verb for verb, _ in asked] == ["check", "check"]


def test_a_writer_that_does_not_rest_is_no_backup_and_goes_on(bench, monkeypatch):
    deploy(bench, 1)
    bench.containers.fail_next("freeze", Failed("cannot freeze"))
    nonce = order(bench, Action.BACKUP)
    bench.until(lambda: bench.outcomes(nonce) != [])
    assert bench.outcome(nonce) is Outcome.FAILED
    assert bench.context.volumes.snapshots("web") == ()
    assert bench.containers.frozen == set()


def test_what_is_due_is_done_without_being_asked_and_not_twice(new, stores, monkeypatch):
    monkeypatch.setattr(backups.plan, "spread", lambda *_, **__: 0)
    monkeypatch.setattr("nebh.executor.prepare.fetch_secrets", lambda *_, **__: None)
    bench = new()
    deploy(bench, 1)
    bench.until(lambda: len(bench.context.backups.last_jobs("web")) == 1)
    time.sleep(0.3)
    assert len(stores.fake.list()) == 2
    assert bench.context.backups.open_jobs() == ()


def test_one_that_was_missed_is_made_up_for_after_a_boot(new, stores, monkeypatch):
    monkeypatch.setattr(backups.plan, "spread", lambda *_, **__: 0)
    monkeypatch.setattr("nebh.executor.prepare.fetch_secrets", lambda *_, **__: None)
    bench = new(replace(RULE, every=3_600_000))
    deploy(bench, 1)
    bench.until(lambda: len(bench.context.backups.last_jobs("web")) == 1)
    bench.context.database.write("UPDATE backup_jobs SET begun_at = begun_at - 7200000, ended_at = ended_at - 7200000")
    bench.restart(reboot=True)
    bench.until(lambda: len(bench.context.backups.last_jobs("web")) == 2)


def test_a_store_that_is_away_is_said_and_tried_again_later(bench, stores):
    deploy(bench, 1)
    stores.fake.fail_next("init", Unreachable("the store does not answer"))
    nonce = order(bench, Action.BACKUP)
    bench.until(lambda: bench.outcomes(nonce) != [])
    assert bench.outcome(nonce) is Outcome.FAILED
    assert any("backup.failed" in one and "does not answer" in one for one in bench.events())
    assert bench.context.volumes.snapshots("web") == ()
    (job,) = bench.context.backups.last_jobs("web")
    assert job.failed
    assert back_up(bench)


def test_the_newest_being_too_old_is_said_once(bench):
    deploy(bench, 1)
    bench.context.database.write("UPDATE volumes SET made_at = 1")
    bench.until(lambda: any("backup.old" in one for one in bench.events()))
    time.sleep(0.2)
    assert sum("backup.old" in one for one in bench.events()) == 1


def test_two_orders_are_done_one_after_the_other(bench, stores):
    deploy(bench, 1)
    gate = stores.fake.hang_next("backup")
    first = order(bench, Action.BACKUP)
    second = order(bench, Action.VERIFY_BACKUPS, wish=BackupWish(percent=5))
    bench.until(lambda: ("backup", "web.data.0") in stores.fake.calls)
    time.sleep(0.1)
    assert (bench.outcomes(first), bench.outcomes(second)) == ([], [])
    gate.set()
    bench.until(lambda: bench.outcomes(second) == [Outcome.DONE])
    assert bench.outcome(first) is Outcome.DONE


@pytest.mark.parametrize("verb", ["init", "backup", "forget"])
def test_a_killed_executor_goes_on_with_the_same_snapshots(bench, stores, verb):
    deploy(bench, 1)
    gate = stores.fake.hang_next(verb)
    nonce = order(bench, Action.BACKUP)
    bench.until(lambda: any(one == verb for one, _ in stores.fake.calls))
    bench.restart()
    gate.set()
    bench.until(lambda: bench.outcomes(nonce) == [Outcome.DONE])
    assert bench.context.volumes.snapshots("web") == ()
    assert len({one.run for one in bench.context.backups.rows("web")}) == 1


def test_one_killed_while_the_writer_rests_lets_it_go_on_and_begins_anew(bench, stores):
    deploy(bench, 1)
    gate = bench.volumes.hang_next("snapshot")
    nonce = order(bench, Action.BACKUP)
    bench.until(lambda: ("snapshot", "web.data.0") in bench.volumes.calls)
    assert bench.containers.frozen != set()
    bench.restart()
    bench.until(lambda: bench.outcomes(nonce) == [Outcome.DONE])
    gate.set()
    assert bench.containers.frozen == set()


def test_an_update_and_a_backup_do_not_meet(bench, stores):
    deploy(bench, 1)
    gate = bench.volumes.hang_next("snapshot")
    nonce = order(bench, Action.BACKUP)
    bench.until(lambda: bench.containers.frozen != set())
    bench.add_release(2, argv=("/bin/sh", "-c", "append /data/rows 2;sleep 1"), volumes=MOUNTS[:1],
                      data=DataRules(reads=(1,), writes=1), update=Update(bake=100, drain=50))  # fmt: skip
    update = bench.assign(2)
    bench.until_state("PREPARING", "STARTING")
    (serving,) = bench.serving()
    assert ("signal", serving.id) not in bench.containers.calls, "the update waits until the writer goes on"
    gate.set()
    bench.until(lambda: bench.outcomes(nonce) == [Outcome.DONE])
    bench.settle()
    assert bench.outcome(update) is Outcome.COMMITTED


def test_retention_follows_the_rule_and_the_journal_follows_the_store(new, stores, monkeypatch):
    monkeypatch.setattr(backups.plan, "spread", lambda *_, **__: 10**12)
    monkeypatch.setattr("nebh.executor.prepare.fetch_secrets", lambda *_, **__: None)
    bench = new(replace(RULE, keep=BackupRetention(last=2), volumes=("data",)))
    deploy(bench, 1)
    runs = [back_up(bench)[0].run for _ in range(3)]
    assert [one.run for one in bench.context.backups.rows("web")] == runs[1:]
    assert {one.volume for one in stores.fake.list()} == {"web.data.0"}


# restoring


def test_what_an_order_names_comes_back_and_goes_again(bench):
    deploy(bench, 1)
    made = back_up(bench)
    deploy(bench, 2)
    assert (rows(bench), rows(bench, "files")) == (["1", "2"], ["1", "2"])
    nonce = order(bench, Action.RESTORE, wish=BackupWish(rows=made))
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED, bench.receipts[-1]
    assert (rows(bench), rows(bench, "files"), bench.counters()) == (["1", "1"], ["1", "1"], [1])
    assert rows(bench, "scratch") == ["1", "2", "1"], "a cache is not copied"
    aside = [one for one in bench.context.volumes.snapshots("web") if one.kind is SnapshotKind.DISCARDED]
    assert {one.volume for one in aside} == {"data", "files"}
    assert SnapshotKind.FETCHED not in {one.kind for one in bench.context.volumes.snapshots("web")}
    undo = replace(
        Order(cluster_id="c" * 32, nodes=(), service="web", action=Action.RESTORE, nonce="f" * 32, signed_at=1, not_after=9),
        snapshot=aside[0].name,
    )  # fmt: skip
    with bench.executor.intake.lock:
        bench.executor.intake.orders.carry_out(undo)
    bench.settle()
    assert (rows(bench), rows(bench, "files"), bench.counters()) == (["1", "2", "2"], ["1", "2", "2"], [2])


def test_a_restore_whose_release_does_not_start_leaves_everything_as_it_was(bench):
    deploy(bench, 1)
    made = back_up(bench)
    deploy(bench, 2)
    bench.containers.fail_next("start", Failed("cannot start"))
    nonce = order(bench, Action.RESTORE, wish=BackupWish(rows=made))
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert (rows(bench), rows(bench, "files"), bench.counters()) == (["1", "2", "2"], ["1", "2", "2"], [2])


def test_an_older_backup_under_the_name_of_the_newest_is_refused_with_an_alarm(bench):
    """What a hacked controller can do: show an operator other ids than the nodes reported."""
    deploy(bench, 1)
    old = back_up(bench)
    deploy(bench, 2)
    new = back_up(bench)
    lies = (
        tuple(replace(one, id=other.id, digest=other.digest) for one, other in zip(new, old, strict=True)),
        tuple(replace(one, run=new[0].run) for one in old),
        tuple(replace(one, digest="0" * 64) for one in new),
        tuple(replace(one, counter=1) for one in new),
        tuple(replace(one, id="0" * 64, run="19700101-000000-000") for one in new),
    )
    for lie in lies:
        with pytest.raises(Refused) as caught:
            order(bench, Action.RESTORE, wish=BackupWish(rows=lie))
        assert caught.value.rule == "backup"
    assert bench.work.open_transactions() == ()
    nonce = order(bench, Action.RESTORE, wish=BackupWish(rows=old))  # the control: told truly, the old one comes back
    bench.settle()
    assert bench.outcome(nonce) is Outcome.COMMITTED
    assert rows(bench) == ["1", "1"]


def test_an_archive_that_the_store_exchanged_is_refused_with_an_alarm(bench, stores):
    deploy(bench, 1)
    back_up(bench)
    deploy(bench, 2)
    made = back_up(bench)
    kept = {(one.volume, one.id): one for one in stores.fake.list()}
    old, new = sorted(
        (one for (volume, _), one in kept.items() if volume == "web.data.0"), key=lambda one: one.taken_at
    )
    stores.fake.exchange(new, old)
    nonce = order(bench, Action.RESTORE, wish=BackupWish(rows=made))
    bench.settle()
    assert bench.outcome(nonce) is Outcome.REFUSED
    assert any("backup.refused" in one and "not what was backed up" in one for one in bench.events())
    assert (rows(bench), bench.counters()) == (["1", "2"], [2])
    assert all(one.kind is SnapshotKind.RELEASE for one in bench.context.volumes.snapshots("web"))


def test_a_node_that_knows_nothing_lists_the_store_and_restores_from_it(bench, new_bench, stores):
    deploy(bench, 1, data=DataRules(reads=(1, 2), writes=2))
    made = back_up(bench)
    fresh = new_bench(volumes=(DATA, FILES, SCRATCH), backup=RULE)
    fresh.stores = stores
    fresh.nonces = 100
    deploy(fresh, 1, data=DataRules(reads=(1, 2), writes=2), argv=("/bin/sh", "-c", "append /data/rows new;sleep 1"))
    with pytest.raises(Refused, match="never written down here"):
        order(fresh, Action.RESTORE, wish=BackupWish(rows=made))
    nonce = order(fresh, Action.LIST_BACKUPS, wish=BackupWish(source="one"))
    fresh.until(lambda: fresh.outcomes(nonce) == [Outcome.DONE])
    listed = fresh.context.backups.rows("web")
    assert {replace(one, listed=False, taken_at=0) for one in listed} == {replace(one, taken_at=0) for one in made}
    assert all(one.listed for one in listed)
    nonce = order(fresh, Action.RESTORE, wish=BackupWish(rows=listed))
    fresh.settle()
    assert fresh.outcome(nonce) is Outcome.COMMITTED, fresh.receipts[-1]
    assert rows(fresh) == ["1", "new"]
    assert fresh.context.volumes.volume("web", 0, "data").version == 2


def test_what_cannot_be_restored_is_said(bench, new):
    deploy(bench, 1)
    made = back_up(bench)
    cases = (
        (BadInput, BackupWish()),
        (BadInput, BackupWish(rows=(replace(made[0], id="latest"),))),
        (BadInput, BackupWish(rows=(made[0], replace(made[1], run="x")))),
        (NotFound, BackupWish(rows=(replace(made[0], replica=7, listed=True),))),
        (NotFound, BackupWish(rows=(replace(made[0], volume="more", listed=True),))),
    )
    for kind, wish in cases:
        with pytest.raises(kind):
            order(bench, Action.RESTORE, wish=wish)
    with pytest.raises(NotFound, match="release 77"):
        order(bench, Action.RESTORE, wish=BackupWish(rows=made), counter=77)
    plain = new(None)
    deploy(plain, 1)
    for action in (Action.BACKUP, Action.VERIFY_BACKUPS, Action.LIST_BACKUPS):
        with pytest.raises(NotFound, match="declares no backups"):
            order(plain, action)


def test_a_release_that_does_not_read_the_backup_is_refused(bench):
    deploy(bench, 1, data=DataRules(reads=(2,), writes=2))
    made = back_up(bench)
    bench.add_release(2, volumes=MOUNTS, data=DataRules(reads=(3,), writes=3))
    with pytest.raises(Refused, match="reads: 3"):
        order(bench, Action.RESTORE, wish=BackupWish(rows=made), counter=2)


def test_a_restore_whose_backup_is_lost_is_dropped_and_nothing_changes(bench, stores):
    deploy(bench, 1)
    made = back_up(bench)
    for one in stores.fake.list():
        stores.fake.lose(one)
    nonce = order(bench, Action.RESTORE, wish=BackupWish(rows=made))
    bench.settle()
    assert bench.outcome(nonce) is Outcome.FAILED
    assert (rows(bench), bench.counters()) == (["1"], [1])
