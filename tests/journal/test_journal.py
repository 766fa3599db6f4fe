"""The journal's promises: whole commits or nothing, whatever ends the process, one open transaction per service."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nebh.journal.accepted import Accepted
from nebh.journal.database import Database
from nebh.journal.outbox import KEPT_EVENTS, KEPT_RECEIPTS, Outbox
from nebh.journal.schema import MIGRATIONS
from nebh.journal.work import KEPT_EFFECTS, Work
from nebh.model.errors import Broken, Failed
from nebh.model.event import Event, Severity
from nebh.model.network import FIRST_ENDPOINT, FIRST_INSTANCE, LAST_INSTANCE
from nebh.model.release import Release
from nebh.model.transaction import State
from nebh.model.work import InstanceRow, Role, TransactionRow, Wanted
from nebh.wire import codec


@pytest.fixture
def database(tmp_path: Path):
    found = Database(tmp_path / "journal.db")
    yield found
    found.close()


def transaction(service: str = "web", **fields) -> TransactionRow:
    values = {
        "id": 0,
        "service": service,
        "kind": "deploy",
        "state": State.ASSIGNED,
        "epoch": 1,
        "from_counter": 0,
        "to_counter": 1,
        "replicas": 1,
        "nonce": "n",
        "phase": "run",
        "cutover": False,
        "attempt": 1,
        "created_at": 1,
        "changed_at": 1,
    }
    return TransactionRow(**{**values, **fields})


def instance(number: int, *, name: str = "", address: int = 0, role: Role = Role.NEW) -> InstanceRow:
    return InstanceRow(
        id=name or f"web-1-0-{number}",
        service="web",
        epoch=1,
        counter=1,
        replica=0,
        attempt=number,
        address=address or FIRST_INSTANCE + number,
        slot=number,
        role=role,
        txn=1,
        created_at=1,
    )


def event(number: int) -> Event:
    return Event(number=number, at=1, source="one", kind="k", severity=Severity.INFO, message="m")


def test_it_is_durable_and_private_to_no_thread(database):
    (mode,) = database.read("PRAGMA journal_mode")[0]
    (level,) = database.read("PRAGMA synchronous")[0]
    assert (mode, level) == ("wal", 2)
    threads = [
        threading.Thread(target=lambda n=n: database.write("INSERT INTO meta VALUES (?, '')", str(n))) for n in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert database.read("SELECT COUNT(*) FROM meta") == [(8,)]


def test_a_commit_is_whole(database):
    accepted = Accepted(database)
    with pytest.raises(ZeroDivisionError), database.atomically():
        accepted.set_meta("a", "1")
        with database.atomically():
            accepted.set_meta("b", "2")
        _ = 1 // 0
    assert (accepted.meta("a"), accepted.meta("b")) == ("", "")
    with database.atomically():
        accepted.set_meta("a", "1")
    assert accepted.meta("a") == "1"


def test_what_follows_a_commit_follows_only_a_commit(database):
    said = []
    with database.atomically():
        database.then(lambda: said.append("after"))
        assert said == []
    assert said == ["after"]
    with pytest.raises(ZeroDivisionError), database.atomically():
        database.then(lambda: said.append("never"))
        _ = 1 // 0
    database.then(lambda: said.append("now"))
    assert said == ["after", "now"]


def test_whoever_is_woken_may_read(database):
    """The wake-up comes when the lock is free: nobody waits for somebody who waits for them."""
    seen = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(database.read("SELECT COUNT(*) FROM meta")))
        thread.start()
        thread.join(10)

    with database.atomically():
        database.write("INSERT INTO meta VALUES ('a', '')")
        database.then(look)
    assert seen == [[(1,)]]


def test_closed_and_broken_files_are_our_errors(tmp_path):
    database = Database(tmp_path / "journal.db")
    database.close()
    with pytest.raises(Failed):
        database.read("SELECT 1")
    (tmp_path / "bad.db").write_bytes(b"not a database, whatever it is called" * 100)
    with pytest.raises(Broken) as caught:
        Database(tmp_path / "bad.db")
    assert caught.value.hint


def test_a_newer_journal_is_left_alone(tmp_path):
    Database(tmp_path / "journal.db").close()
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    with pytest.raises(Broken, match="newer"):
        Database(tmp_path / "journal.db")


_CHILD = """
import os, signal, sys
from pathlib import Path
from nebh.journal.database import Database
from nebh.journal.accepted import Accepted
from nebh.journal.work import Work
from nebh.model.transaction import State
database = Database(Path(sys.argv[1])); accepted, work = Accepted(database), Work(database)
accepted.set_meta('before', '1')
with database.atomically():
    accepted.set_meta('inside', '1')
    work.ensure_service('web', epoch=1)
    if sys.argv[2] == 'inside':
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == 'after':
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("where", ["inside", "after"])
def test_killed_in_the_middle_of_a_commit(tmp_path, where):
    source = str(Path(__file__).parents[2] / "src")
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "journal.db"), where],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, *filter(None, sys.path)])},
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    database = Database(tmp_path / "journal.db")
    accepted, work = Accepted(database), Work(database)
    assert accepted.meta("before") == "1"
    assert (accepted.meta("inside") == "1", work.service("web") is not None) == (where == "after",) * 2
    database.close()


# transactions


def test_one_open_transaction_per_service(database):
    work = Work(database)
    first = work.begin(transaction())
    with pytest.raises(sqlite3.IntegrityError):
        work.begin(transaction())
    work.begin(transaction("db"))
    ended = work.move(first, State.REFUSED, now=5, reason="no", rule="N6")
    assert (ended.reason, ended.rule, ended.phases) == ("no", "N6", {"assigned": 4})
    work.begin(transaction())
    assert len(work.open_transactions()) == 2


def test_only_legal_transitions(database):
    work = Work(database)
    row = work.begin(transaction())
    for state in (State.STARTING, State.COMMITTED, State.ROLLED_BACK):
        with pytest.raises(Broken):
            work.move(row, state, now=2)
    assert work.transaction(row.id).state is State.ASSIGNED


def test_the_point_of_no_return_stays(database):
    work = Work(database)
    row = work.begin(transaction())
    for state in (State.PREPARING, State.PREPARED, State.STARTING):
        row = work.move(row, state, now=2)
        assert not row.cutover
    row = work.move(row, State.CUTTING_OVER, now=2)
    row = work.move(row, State.CHECKING, now=2, cutover=True)
    assert work.move(row, State.ROLLING_BACK, now=3).cutover


def test_commands_that_something_came_of(database):
    work, outbox = Work(database), Outbox(database)
    work.begin(transaction(nonce="begun"))
    outbox.add_receipt(lambda *_: b"x", nonce="refused")
    assert [work.knows(nonce) for nonce in ("begun", "refused", "lost")] == [True, True, False]


def test_the_journal_does_not_grow_for_ever(database):
    work = Work(database)
    with database.atomically():
        for number in range(30):
            row = work.begin(transaction(nonce=str(number)))
            if number < 29:
                work.move(row, State.REFUSED, now=2)
        work.begin(transaction("db"))
        for _ in range(KEPT_EFFECTS + 600):
            work.effect_ended(work.effect_begins(1, "prepare.sync", now=1), now=2)
    work.prune(keep=10)
    assert [row.nonce for row in work.history("web")] == [str(number) for number in range(29, 19, -1)]
    assert len(work.open_transactions()) == 2, "what is open stays"
    assert database.read("SELECT COUNT(*) FROM effects")[0][0] <= KEPT_EFFECTS + 256


def test_effects_tell_what_was_cut_short(database):
    work = Work(database)
    number = work.effect_begins(7, "prepare.attach", now=3)
    work.effect_begins(7, "prepare.create", now=5)
    work.effect_ended(number, now=4)
    assert work.effects(7) == (("prepare.attach", 3, 4), ("prepare.create", 5, 0))


# instances


def test_addresses_are_given_in_turn_and_never_twice(database):
    work = Work(database)
    first = work.free_address()
    work.add_instance(instance(1, address=first))
    second = work.free_address()
    work.remove_instance("web-1-0-1", now=2)
    assert (first, second) == (FIRST_INSTANCE, FIRST_INSTANCE + 1)
    assert work.free_address() == FIRST_INSTANCE + 2, "not the one that was just given back"
    Accepted(database).set_meta("address", str(LAST_INSTANCE))
    assert work.free_address() == FIRST_INSTANCE, "it begins again at the end"
    with pytest.raises(sqlite3.IntegrityError):
        work.add_instance(instance(5, address=FIRST_INSTANCE + 9))
        work.add_instance(instance(6, address=FIRST_INSTANCE + 9))


def test_endpoints_stay_until_a_service_goes(database):
    work = Work(database)
    work.ensure_service("web", epoch=1)
    assert [work.endpoint("web", 0), work.endpoint("web", 1), work.endpoint("db", 0)] == [
        FIRST_ENDPOINT,
        FIRST_ENDPOINT + 1,
        FIRST_ENDPOINT + 2,
    ]
    assert work.endpoint("web", 1) == FIRST_ENDPOINT + 1
    work.forget_service("web")
    assert work.endpoint("api", 0) == FIRST_ENDPOINT
    service = work.service("web")
    assert (service.counter, service.wanted) == (0, Wanted.REMOVED)


def test_user_ids_are_never_shared(database):
    work = Work(database)
    rows = [work.ensure_service(name, epoch=1) for name in ("a", "b", "c", "a")]
    assert [row.uid_index for row in rows] == [0, 1, 2, 0]


def test_attempts_only_rise_and_former_instances_are_known(database):
    work = Work(database)
    assert [work.next_attempt("web") for _ in range(3)] == [1, 2, 3]
    work.add_instance(instance(1))
    work.note_exit("web-1-0-1", "it exited with code 3")
    assert (work.instance("web-1-0-1").restarts, work.instance("web-1-0-1").last_exit) == (1, "it exited with code 3")
    work.remove_instance("web-1-0-1", now=9)
    work.remove_instance("web-1-0-1", now=10)
    assert work.former("web") == ("web-1-0-1",)
    work.forget_former("web-1-0-1")
    assert work.former("web") == ()


# the outbox


def test_events_are_one_chain(database):
    outbox = Outbox(database)
    assert outbox.audit_head() == "0" * 64
    head = "0" * 64
    for _ in range(5):
        one = outbox.add_event(event)
        head = hashlib.sha256(bytes.fromhex(head) + codec.encode(one)).hexdigest()
        assert outbox.audit_head() == head
    assert [one.number for one in outbox.events_after(2)] == [3, 4, 5]
    assert [one.number for one in outbox.events_after(0, limit=2)] == [1, 2]


def test_receipts_name_the_one_before(database):
    outbox = Outbox(database)
    seen = []

    def make(number: int, previous: str) -> bytes:
        seen.append(previous)
        return f"receipt {number}".encode()

    for _ in range(3):
        outbox.add_receipt(make, nonce="n")
    digests = [hashlib.sha256(f"receipt {number}".encode()).hexdigest() for number in (1, 2)]
    assert seen == ["0" * 64, *digests]
    assert outbox.receipts_after(1) == ((2, b"receipt 2"), (3, b"receipt 3"))
    assert outbox.newest() == (3, 0)


def test_a_failed_receipt_leaves_no_number(database):
    outbox = Outbox(database)
    with pytest.raises(ZeroDivisionError):
        outbox.add_receipt(lambda *_: 1 // 0, nonce="n")
    assert outbox.add_receipt(lambda number, _: str(number).encode(), nonce="n") == 1


def test_what_was_said_is_kept_within_bounds(database):
    outbox = Outbox(database)
    with database.atomically():
        for _ in range(KEPT_EVENTS + 600):
            outbox.add_event(event)
        for _ in range(KEPT_RECEIPTS + 600):
            outbox.add_receipt(lambda *_: b"x", nonce="n")
    assert database.read("SELECT COUNT(*) FROM events")[0][0] <= KEPT_EVENTS + 256
    assert database.read("SELECT COUNT(*) FROM receipts")[0][0] <= KEPT_RECEIPTS + 256
    assert outbox.newest() == (KEPT_RECEIPTS + 600, KEPT_EVENTS + 600)


# what was accepted


def test_releases_keep_their_first_bytes_and_commit_time(database):
    accepted = Accepted(database)
    release = Release(cluster_id="c", service="web", epoch=1, counter=7, signed_at=1, images={}, argv=("/app",))
    accepted.add_release(release, digest="d" * 64, now=5)
    accepted.add_release(release, digest="e" * 64, now=6)
    accepted.mark_failed("web", 1, 7, why="check bad failed")
    assert accepted.release_row("web", 1, 7).failed == "check bad failed"
    accepted.mark_committed("web", 1, 7, now=8)
    accepted.mark_committed("web", 1, 7, now=9)
    row = accepted.release_row("web", 1, 7)
    assert (row.digest, row.accepted_at, row.committed_at, row.failed) == ("d" * 64, 5, 8, "")
    assert accepted.release("web", 1, 7) == release
    assert accepted.state().releases[0].committed_at == 8


def test_nonces_are_remembered_once(database):
    accepted = Accepted(database)
    accepted.use_nonce("n", now=1)
    accepted.use_nonce("n", now=2)
    assert accepted.state().nonces == frozenset({"n"})
