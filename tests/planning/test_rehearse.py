"""What a rehearsal starts from, when one is due, and when there is no room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebh.model.image import ImageRef
from nebh.model.kept import SnapshotKind, SnapshotRow
from nebh.model.rehearsal import DAY, RehearsalRule
from nebh.model.release import Release
from nebh.model.volume import DataRules
from nebh.planning.rehearse import Memory, admit_memory, choose_start, is_due, slot_of

HOUR = 3_600_000


def release(counter: int, *reads: int) -> Release:
    return Release(
        cluster_id="c" * 32,
        service="db",
        epoch=1,
        counter=counter,
        signed_at=1,
        images={"main": ImageRef(manifest="0" * 64, manifest_bytes=1, bytes=1, entries=1)},
        argv=("/bin/db",),
        data=DataRules(reads=reads, writes=max(reads, default=0)),
    )


def kept(name: str, counter: int, version: int) -> SnapshotRow:
    return SnapshotRow(
        service="db",
        replica=0,
        volume="data",
        name=name,
        kind=SnapshotKind.RELEASE,
        txn=1,
        epoch=1,
        counter=counter,
        version=version,
        taken_at=counter,
        whole=True,
    )


def test_it_starts_from_what_a_rollback_would_find() -> None:
    rows = (kept("t7", 3, 1), kept("t9", 4, 2))
    now = choose_start(release(4, 1, 2), versions=(2,), staying=(), snapshots=rows)
    assert (now.problem, now.snapshot, now.version) == ("", "", 2)
    back = choose_start(release(3, 1), versions=(2,), staying=(), snapshots=rows)
    assert (back.problem, back.snapshot, back.version) == ("", "t7", 1)
    stuck = choose_start(release(3, 1), versions=(2,), staying=(2,), snapshots=rows)
    assert "shared state stays on rollback" in stuck.problem
    none = choose_start(release(2, 1), versions=(2,), staying=(), snapshots=rows)
    assert "there is no snapshot of the data that it last had" in none.problem
    assert choose_start(release(1), versions=(), staying=(), snapshots=()).problem == ""


@given(st.integers(0, DAY - 1).map(lambda n: n - n % 60_000), st.integers(1, 60), st.integers(20 * DAY, 10_000 * DAY))
def test_a_time_of_day_is_met_once_in_each_period(at: int, days: int, now: int) -> None:
    rule = RehearsalRule(every=days * DAY, at=at)
    begin = slot_of(rule, now)
    assert begin <= now < begin + rule.every
    assert begin % DAY == at
    assert is_due(rule, last=begin - 1, now=now)
    assert not is_due(rule, last=begin, now=now)
    assert not is_due(rule, last=now, now=now)


def test_without_a_time_of_day_it_comes_after_the_last_one() -> None:
    rule = RehearsalRule(every=6 * HOUR)
    assert not is_due(rule, last=DAY, now=DAY + 6 * HOUR - 1)
    assert is_due(rule, last=DAY, now=DAY + 6 * HOUR)
    hourly = RehearsalRule(every=6 * HOUR, at=3 * HOUR)
    assert [slot_of(hourly, DAY + hour * HOUR) // HOUR % 24 for hour in (3, 8, 9, 23)] == [3, 3, 9, 21]


def test_memory_that_others_were_promised_is_not_taken() -> None:
    gib = 1 << 30
    assert admit_memory(Memory(total=4 * gib, promised=2 * gib, percent=75), needed=gib).ok
    verdict = admit_memory(Memory(total=4 * gib, promised=2 * gib, percent=75), needed=gib + 1)
    assert not verdict.ok
    assert "2" in verdict.reason
    assert "overlap_memory" in verdict.hint
