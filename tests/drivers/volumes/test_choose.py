"""A node's storage: chosen by what there is, and never changed by itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from nebh.drivers.volumes.choose import StorageKind, StorageWish, choose_storage
from nebh.drivers.volumes.command import StorageCommands
from nebh.drivers.volumes.copy import shares_blocks
from nebh.drivers.volumes.pool import PoolPlan, find_lack
from nebh.model.errors import BadInput, NotFound
from nebh.model.stored import VolumePlan
from nebh.testing.disks.pools import mount_file_system

MIB = 1 << 20


@pytest.fixture
def plain(tmp_path):
    """A folder on a file system without snapshots."""
    if shares_blocks(tmp_path):
        pytest.skip("this machine's own file system shares blocks")
    return tmp_path / "state"


def can_pool(folder: Path) -> bool:
    return not find_lack(PoolPlan(mount=folder))


def test_without_snapshots_a_pool_is_made_where_it_can_be(plain, tmp_path):
    found = choose_storage(plain, StorageWish())
    assert found.kind is (StorageKind.POOL if can_pool(tmp_path) else StorageKind.COPY)
    assert found.reason


def test_volumes_that_are_there_stay_where_they_are(plain):
    driver = choose_storage(plain, StorageWish(kind=StorageKind.COPY)).driver
    driver.open()
    driver.make(VolumePlan(name="db.data.0"))
    again = choose_storage(plain, StorageWish())
    assert again.kind is StorageKind.COPY
    again.driver.open()
    assert [one.name for one in again.driver.list()] == ["db.data.0"]
    (plain / "volumes" / "db.data.0").rename(plain / "away")
    (plain / "pool.btrfs").touch()
    assert choose_storage(plain, StorageWish()).kind is StorageKind.POOL


@pytest.mark.root
def test_a_btrfs_is_used_as_it_is(tmp_path):
    with contextlib.ExitStack() as stack:
        try:
            place = mount_file_system("btrfs", tmp_path, stack)
        except NotFound as error:
            pytest.skip(str(error))
        found = choose_storage(place / "state", StorageWish())
        assert found.kind is StorageKind.BTRFS
        found.driver.open()
        found.driver.make(VolumePlan(name="db.data.0"))
        found.driver.snapshot("db.data.0", "r1")


def test_what_is_asked_for_is_what_one_gets(tmp_path):
    nothing = ("/bin/true",)
    commands = StorageCommands(path="/srv/{volume}", snapshot=nothing, restore=nothing, delete=nothing, list=nothing)
    wish = StorageWish(kind=StorageKind.COMMANDS, commands=commands)
    assert choose_storage(tmp_path, wish).driver.list() == ()
    with pytest.raises(BadInput, match="none are declared"):
        choose_storage(tmp_path, StorageWish(kind=StorageKind.COMMANDS))
    wish = StorageWish(device=Path("/dev/null"))
    if can_pool(tmp_path):
        assert choose_storage(tmp_path, wish).kind is StorageKind.POOL
    for kind in (StorageKind.BTRFS, StorageKind.REFLINK, StorageKind.COPY):
        assert choose_storage(tmp_path, StorageWish(kind=kind)).kind is kind
