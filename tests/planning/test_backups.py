"""When a backup is due, and what an order may have restored."""

from __future__ import annotations

from dataclasses import replace

from nebh.model.backup import Backup, BackupRow, BackupRule, name_in_store, read_stored
from nebh.planning.backups import MOST_RETRY, Ended, due_at, find_lie, is_old, newest_run, run_name, spread

HOUR = 3_600_000
RULE = BackupRule(to="/srv/b", password="pw", every=24 * HOUR)


def ended(at: int, *, failed: bool = False) -> Ended:
    return Ended(begun_at=at, ended_at=at + 1000, failed=failed)


def row(run: str = "r1", **fields) -> BackupRow:
    plain = BackupRow(
        run=run, service="db", replica=0, volume="data", source="n1", id="a" * 64, digest="b" * 64, bytes=5, taken_at=7,
        epoch=1, counter=4, version=2,
    )  # fmt: skip
    return replace(plain, **fields)


def test_the_first_is_due_soon_and_the_next_after_every() -> None:
    assert due_at(RULE, (), since=1000, late=5) == 1005
    assert due_at(RULE, (ended(HOUR),), since=0, late=5) == HOUR + 24 * HOUR + 5
    assert due_at(RULE, (ended(HOUR), ended(0, failed=True)), since=0, late=0) == 25 * HOUR


def test_what_failed_is_tried_again_less_and_less_often() -> None:
    failures = [
        due_at(RULE, tuple(ended(0, failed=True) for _ in range(count)), since=0, late=0) for count in (1, 2, 3, 40)
    ]
    assert failures == [61_000, 121_000, 241_000, MOST_RETRY + 1000]
    often = replace(RULE, every=30_000)
    assert due_at(often, (ended(0, failed=True),), since=0, late=0) == 31_000


def test_nodes_come_at_different_times() -> None:
    found = {spread(f"{number}", "db", every=24 * HOUR) for number in range(50)}
    assert len(found) > 40
    assert max(found) < 600_000
    assert spread("n", "db", every=60_000) < 6_000


def test_too_old_is_twice_as_old_as_it_should_be() -> None:
    assert not is_old(RULE, newest=0, since=0, now=48 * HOUR)
    assert is_old(RULE, newest=0, since=0, now=49 * HOUR)
    assert not is_old(RULE, newest=24 * HOUR, since=0, now=49 * HOUR)


def test_names_can_be_read_back() -> None:
    assert run_name(1_763_760_645_007) == "20251121-213045-007"
    one = row(run_name(1_763_760_645_007), listed=True)
    assert read_stored(one.stored, source="n1") == one
    for snapshot in ("r1", "x.e1-c2", "x.e-c.v", name_in_store("UP", epoch=1, counter=1, version=1)):
        strange = Backup(id="a" * 64, volume="db.data.0", snapshot=snapshot, digest="b" * 64, taken_at=0, bytes=0)
        assert read_stored(strange, source="n1") is None


def test_lies_are_found() -> None:
    written = (row(), row("r2", id="c" * 64))
    assert find_lie(row(), written) == ""
    assert find_lie(row(listed=True), written) == "", "where it is known from makes no difference"
    for lie in (
        row("r2"),
        row(id="c" * 64),
        row(digest="d" * 64),
        row(counter=5),
        row(taken_at=8),
        row("r3", id="c" * 64),
    ):
        assert "this node wrote down" in find_lie(lie, written)
    assert "never written down" in find_lie(row("r9", id="9" * 64), written)
    assert find_lie(row("r9", id="9" * 64, listed=True), written) == ""


def test_the_newest_is_one_that_was_written_down_here() -> None:
    old, new = row("r1", taken_at=1), row("r2", taken_at=2, id="c" * 64)
    both = (*(replace(one, volume=name) for one in (old, new) for name in ("data", "files")),)
    assert [(one.run, one.volume) for one in newest_run(both)] == [("r2", "data"), ("r2", "files")]
    shown = (old, replace(new, listed=True))
    assert newest_run(shown) == (old,)
    assert newest_run(shown, run="r2") == shown[1:]
    assert newest_run(shown, run="c" * 12) == shown[1:]
    assert newest_run(shown, run="c") == ()
    assert newest_run((), run="") == ()
