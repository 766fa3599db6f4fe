"""The storage of a node's volumes: gone and full are two things."""

from __future__ import annotations

import os

import pytest

from nebh.drivers.volumes.base import OutOfSpace, StorageGone
from nebh.drivers.volumes.choose import Chosen, StorageKind
from nebh.drivers.volumes.fake import FakeVolumes
from nebh.drivers.volumes.pool import PoolPlan, find_lack
from nebh.executor.storage import Storage
from nebh.host.layout import Layout
from nebh.model.errors import Failed
from nebh.model.local import StorageConfig
from nebh.model.stored import VolumePlan
from nebh.planning.fullness import Fullness, judge_storage

MIB = 1 << 20


@pytest.fixture
def storage(tmp_path):
    """One whose driver can be told to fail."""
    made = Storage(StorageConfig(driver="copy"), Layout(state=tmp_path / "s", run=tmp_path / "r"))
    driver = FakeVolumes(tmp_path / "s" / "volumes" / "volumes")
    made._chosen = Chosen(driver=driver, kind=StorageKind.COMMANDS, reason="a test")
    made.ensure()
    return made


def test_a_full_storage_is_not_a_storage_that_is_gone(storage):
    storage.driver.fail_next("check", OutOfSpace("no space is left", hint="make some"))
    assert storage.look() == ""
    assert storage.warning() == ("no space is left", "make some")
    assert storage.look() == ""
    assert storage.warning() == ("", "")


@pytest.mark.parametrize("error", [OutOfSpace("cannot give the pool more"), Failed("cannot let the pool grow")])
def test_a_pool_that_cannot_grow_still_serves(storage, error):
    storage.driver.fail_next("upkeep", error)
    assert storage.look() == ""
    assert storage.warning()[0] == error.message


@pytest.mark.parametrize("verb", ["check", "upkeep"])
def test_one_that_is_gone_is_told_and_opened_anew(storage, verb):
    storage.driver.fail_next(verb, StorageGone("it answers with an error"))
    assert storage.look() == "it answers with an error"
    assert storage.look() == "", "nobody looks until somebody has it opened again"
    storage.ensure()
    assert storage.look() == ""


@pytest.mark.root
def test_a_pool_grows_and_then_says_what_helps(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a pool")
    if lack := find_lack(PoolPlan(mount=tmp_path / "pool")):
        pytest.skip(f"no pool of volumes: {lack}")
    layout = Layout(state=tmp_path / "s", run=tmp_path / "r")
    config = StorageConfig(driver="pool", size=256 * MIB, most=384 * MIB)
    storage = Storage(config, layout)
    storage.ensure()
    try:
        place = storage.driver.make(VolumePlan(name="db.data.0"))
        file = layout.volumes / "pool.btrfs"

        def fill(name: str, *, percent: int) -> None:
            with (place / name).open("wb", buffering=0) as one:
                while (state := os.statvfs(place)).f_bavail * 100 > percent * state.f_blocks:
                    one.write(os.urandom(2 * MIB))
                    os.sync()

        fill("first", percent=18)
        assert (storage.look(), storage.warning()) == ("", ("", ""))
        assert file.stat().st_size == 384 * MIB, "less than a fifth was free, so it grew, as far as it may"
        fill("second", percent=4)
        assert storage.look() == "", "full is not gone"
        what, hint = storage.warning()
        assert "the storage is full" in what
        assert "delete snapshots" in hint
        room = storage.driver.room()
        assert judge_storage(room, before=Fullness.FINE) is Fullness.FULL, room
        for name in ("first", "second"):
            (place / name).unlink()
        os.sync()
        assert judge_storage(storage.driver.room(), before=Fullness.FULL) is Fullness.FINE
    finally:
        storage.driver._keeper._pool.close()
