"""Sizes of volumes: a new one comes with its release and goes back with it, and never below what is in the volume."""

from __future__ import annotations

import pytest

from nebh.model.service import Check, CheckKind, Update
from nebh.model.statement import Outcome
from nebh.model.volume import DataRules, VolumeBound, VolumeClass, VolumeMount

MIB = 1 << 20
BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/bad", interval=100, failures=1)


def bound(size: int) -> tuple[VolumeBound, ...]:
    return (VolumeBound(name="data", kind=VolumeClass.STATE, size=size),)


@pytest.fixture
def bench(new_bench):
    made = new_bench(volumes=bound(4 * MIB))
    assert update(made, 1) is Outcome.COMMITTED
    (made.volumes.path("web.data.0") / "file").write_bytes(b"x" * 2 * MIB)
    return made


def update(bench, number: int, *, size: int = 0, check: Check | None = None) -> Outcome:
    if size:
        bench.set_policy(version=number, volumes=bound(size))
    bench.add_release(
        number,
        volumes=(VolumeMount(name="data", path="/data"),),
        data=DataRules(reads=(1,), writes=1),
        update=Update(bake=20_000 if check else 50, checks=(check,) if check else (), drain=50),
    )
    nonce = bench.assign(number)
    bench.settle()
    bench.until(lambda: bool(bench.outcomes(nonce)))
    return bench.outcome(nonce)


def quota(bench) -> int:
    return bench.volumes.list()[0].quota


@pytest.mark.parametrize("size", [8 * MIB, 3 * MIB])
def test_a_size_comes_with_its_release(bench, size):
    assert update(bench, 2, size=size) is Outcome.COMMITTED
    bench.until(lambda: quota(bench) == size)


def test_less_than_what_is_used_is_refused_before_anything_changes(bench):
    calls = len(bench.containers.calls)
    assert update(bench, 2, size=MIB) is Outcome.REFUSED
    assert "data holds 2 MiB, its new size is 1 MiB; nothing was changed" in bench.receipts[-1].detail
    assert (quota(bench), bench.counters()) == (4 * MIB, [1])
    assert all(verb == "observe" or verb == "delete" for verb, _ in bench.containers.calls[calls:])


@pytest.mark.parametrize("size", [8 * MIB, 3 * MIB])
def test_a_release_that_goes_back_takes_its_size_along(bench, size):
    bench.agent.sick.add("/bad")
    assert update(bench, 2, size=size, check=BAD) is Outcome.ROLLED_BACK
    bench.until(lambda: quota(bench) == 4 * MIB)


def test_until_the_end_the_larger_of_two_sizes_holds(bench):
    gate = bench.volumes.hang_next("snapshot")
    bench.set_policy(version=2, volumes=bound(3 * MIB))
    bench.add_release(
        2,
        volumes=(VolumeMount(name="data", path="/data"),),
        data=DataRules(reads=(1,), writes=1),
        update=Update(bake=50, drain=50),
    )
    bench.assign(2)
    bench.until_state("STARTING")
    assert quota(bench) == 4 * MIB, "the old release may still go on"
    gate.set()
    bench.settle()
    bench.until(lambda: quota(bench) == 3 * MIB)


def test_a_crash_after_the_end_leaves_no_other_size(bench):
    bench.volumes.resize("web.data.0", 7 * MIB)
    bench.restart()
    bench.until(lambda: quota(bench) == 4 * MIB)
