"""Who may write data, which release may read it, what a failed release does to it, and which snapshots stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.image import ImageRef
from nebh.model.kept import SnapshotKind, SnapshotRow
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Limits, Placement, Replicas
from nebh.model.volume import DataRules, OnFailureData, VolumeBound, VolumeClass, VolumeMount
from nebh.planning.data import (
    DataChoice,
    choose_on_failure,
    droppable,
    may_read,
    mounted,
    owns_data,
    snapshot_to_restore,
    unknown_volumes,
)

NOW = 1_000_000


def make_policy(**volumes: VolumeClass) -> Policy:
    return Policy(
        cluster_id="c" * 32,
        service="db",
        version=1,
        epoch=1,
        signed_at=1,
        state=ServiceState.RUNNING,
        placement=Placement(),
        replicas=Replicas(),
        limits=Limits(memory=1),
        net=NetPolicy(),
        volumes=tuple(VolumeBound(name=name, kind=kind, size=1) for name, kind in volumes.items()),
    )


def make_release(*volumes: str, reads: tuple[int, ...] = (1,), writes: int = 1, counter: int = 1) -> Release:
    return Release(
        cluster_id="c" * 32,
        service="db",
        epoch=1,
        counter=counter,
        signed_at=1,
        images={"main": ImageRef(manifest="0" * 64, manifest_bytes=1, bytes=1, entries=1)},
        argv=("/a",),
        volumes=tuple(VolumeMount(name=name, path=f"/{name}") for name in volumes),
        data=DataRules(reads=reads, writes=writes),
    )


@pytest.mark.parametrize(
    ("kind", "owns"),
    [
        (VolumeClass.STATE, True),
        (VolumeClass.SHARED_STATE, True),
        (VolumeClass.BULK, True),
        (VolumeClass.CACHE, False),
        (VolumeClass.TEMP, False),
    ],
)
def test_data_has_one_writer_and_a_cache_need_not(kind: VolumeClass, owns: bool) -> None:
    assert owns_data(make_policy(a=kind), make_release("a")) is owns


def test_what_the_policy_does_not_bound_is_not_mounted() -> None:
    policy, release = make_policy(a=VolumeClass.STATE), make_release("a", "b")
    assert [one.mount.name for one in mounted(policy, release)] == ["a"]
    assert unknown_volumes(policy, release) == ("b",)
    assert not owns_data(policy, make_release("b"))


def test_a_release_runs_only_on_data_that_it_reads() -> None:
    release = make_release("a", reads=(1, 2), writes=2, counter=7)
    assert may_read(release, 1).ok
    assert may_read(release, 0).ok
    found = may_read(release, 3)
    assert not found.ok
    assert "version 3" in found.reason
    assert "--to 7 --data restore" in found.hint


OLD, OTHER = make_release("a"), make_release("a", reads=(2,), writes=2)


@pytest.mark.parametrize(
    ("wish", "old", "version", "choice"),
    [
        (OnFailureData.AUTO, OLD, 1, DataChoice.KEEP),
        (OnFailureData.AUTO, OLD, 2, DataChoice.HOLD),
        (OnFailureData.KEEP, OLD, 1, DataChoice.KEEP),
        (OnFailureData.KEEP, OLD, 2, DataChoice.HOLD),
        (OnFailureData.HOLD, OLD, 1, DataChoice.HOLD),
        (OnFailureData.RESTORE, OLD, 2, DataChoice.RESTORE),
        (OnFailureData.AUTO, None, 2, DataChoice.KEEP),
    ],
)
def test_after_the_cut_over_users_have_written(
    wish: OnFailureData, old: Release | None, version: int, choice: DataChoice
) -> None:
    assert choose_on_failure(wish, old=old, versions=(version,), cutover=True) is choice
    assert choose_on_failure(wish, old=old, versions=(version,), cutover=False) is DataChoice.RESTORE


def test_nothing_is_restored_beside_shared_data_that_the_old_release_cannot_read() -> None:
    restore = OnFailureData.RESTORE
    assert choose_on_failure(restore, old=OLD, versions=(2,), staying=(1,), cutover=True) is DataChoice.RESTORE
    assert choose_on_failure(restore, old=OLD, versions=(2,), staying=(2,), cutover=True) is DataChoice.HOLD


def row(number: int, **fields: object) -> SnapshotRow:
    base = SnapshotRow(
        service="db",
        replica=0,
        volume="a",
        name=f"t{number}",
        kind=SnapshotKind.RELEASE,
        txn=number,
        epoch=1,
        counter=number,
        version=1,
        taken_at=number,
        whole=True,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def test_old_snapshots_go_and_what_may_still_be_restored_stays() -> None:
    rows = [row(number) for number in range(1, 6)]
    assert [one.name for one in droppable(rows, keep=2, now=NOW, needed=frozenset())] == ["t1", "t2", "t3"]
    assert [one.name for one in droppable(rows, keep=2, now=NOW, needed=frozenset({"t2"}))] == ["t1", "t3"]


def test_discarded_data_goes_when_its_time_is_over_and_a_persons_never() -> None:
    rows = [
        row(1, kind=SnapshotKind.DISCARDED, until=NOW),
        row(2, kind=SnapshotKind.DISCARDED, until=NOW + 1),
        row(3, kind=SnapshotKind.MANUAL),
    ]
    assert [one.name for one in droppable(rows, keep=1, now=NOW, needed=frozenset())] == ["t1"]


@given(st.lists(st.integers(1, 30), unique=True, max_size=20), st.integers(0, 5))
def test_the_newest_of_a_release_is_never_dropped(numbers: list[int], keep: int) -> None:
    rows = [row(number) for number in numbers]
    dropped = droppable(rows, keep=keep, now=NOW, needed=frozenset())
    assert len(rows) - len(dropped) == min(len(rows), max(1, keep))
    assert all(one.taken_at != max(numbers) for one in dropped)


def test_the_data_as_a_release_last_had_it() -> None:
    rows = [row(1, counter=4), row(2, counter=4), row(3, counter=5), row(9, counter=4, kind=SnapshotKind.DISCARDED)]
    found = snapshot_to_restore(rows, epoch=1, counter=4)
    assert found is not None
    assert found.name == "t2"
    assert snapshot_to_restore(rows, epoch=2, counter=4) is None
