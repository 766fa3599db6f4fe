"""What every volume driver promises of room: usage, quotas, a storage that is full. The fake too."""

from __future__ import annotations

import contextlib
import os

import pytest

from nebh.drivers.volumes.base import OutOfSpace, Unable
from nebh.drivers.volumes.fake import FakeVolumes
from nebh.model.stored import Ability, VolumePlan
from nebh.testing.tree_look import observe_tree

MIB = 1 << 20
NAME = "db.data.0"


def names(driver, volume=NAME):
    (found,) = [one for one in driver.list() if one.name == volume]
    return [one.name for one in found.snapshots]


def test_the_storage_says_what_is_left(driver):
    driver.make(VolumePlan(name=NAME))
    room = driver.room()
    assert 0 <= room.free <= room.size
    assert room.growth >= 0


def test_usage_is_measured(driver):
    place = driver.make(VolumePlan(name=NAME, quota=40 * MIB))
    (place / "file").write_bytes(os.urandom(4 * MIB))
    driver.snapshot(NAME, "r1")
    found = driver.usage(NAME)
    if isinstance(driver, FakeVolumes) or found.used >= 0:
        assert 4 * MIB <= found.used < 5 * MIB
    assert found.quota == 40 * MIB
    assert found.strays == 0
    (place / "file").unlink()
    driver.snapshot(NAME, "r2")
    if Ability.EXCLUSIVE in driver.abilities:
        found = driver.usage(NAME)
        assert found.exclusive is not None
        assert found.exclusive["r1"] >= 4 * MIB
        assert found.exclusive["r2"] < MIB


def write_until_refused(place, *, at_most):
    """Fill a volume as an ordinary user would; return the bytes that were taken."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.chdir(place)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            with open("filled", "ab", buffering=0) as file:
                try:
                    for _ in range(at_most // MIB):
                        file.write(os.urandom(MIB))
                        os.fsync(file.fileno())
                    status = 1
                except OSError as error:
                    status = 0 if error.errno in (28, 122) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "nothing was refused"
    return (place / "filled").stat().st_size


def test_a_quota_holds_after_a_restore_too(driver):
    if Ability.QUOTA not in driver.abilities:
        pytest.skip("this storage has no quotas of its own")
    place = driver.make(VolumePlan(name=NAME, quota=8 * MIB, uid=65534, gid=65534))
    for folder in (place, *place.parents):
        if not os.stat(folder).st_mode & 0o001 and folder != place:
            os.chmod(folder, os.stat(folder).st_mode | 0o001)
    assert 5 * MIB <= write_until_refused(place, at_most=30 * MIB) <= 8 * MIB
    driver.snapshot(NAME, "full")
    (place / "filled").unlink()
    driver.resize(NAME, 16 * MIB)
    assert 12 * MIB <= write_until_refused(place, at_most=30 * MIB) <= 16 * MIB
    driver.restore(NAME, "full", keep_as="undo")
    place = driver.path(NAME)
    assert driver.usage(NAME).quota == 16 * MIB
    assert 12 * MIB <= write_until_refused(place, at_most=30 * MIB) <= 16 * MIB
    (place / "filled").unlink()
    try:
        driver.resize(NAME, 0)
    except Unable as error:
        print(error)
        return
    with pytest.raises(AssertionError, match="nothing was refused"):
        write_until_refused(place, at_most=20 * MIB)


def test_a_full_storage_refuses_and_changes_nothing(driver):
    if isinstance(driver, FakeVolumes):
        driver.make(VolumePlan(name=NAME))
        driver.fail_next("snapshot", OutOfSpace("cannot snapshot volume db.data.0: the storage is full"))
        with pytest.raises(OutOfSpace):
            driver.snapshot(NAME, "r1")
        assert names(driver) == []
        return
    place = driver.make(VolumePlan(name=NAME))
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    if free > 1 << 30:
        pytest.skip("this storage is too large to fill")
    (place / "file").write_text("one")
    driver.snapshot(NAME, "r1")
    with open(place / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(MIB))
    before = observe_tree(place)
    try:
        driver.snapshot(NAME, "r2")
    except OutOfSpace as error:
        print(error)
        assert names(driver) == ["r1"]
    else:
        assert observe_tree(driver.snapshot_path(NAME, "r2")) == before
    with contextlib.suppress(OutOfSpace):
        driver.restore(NAME, "r1", keep_as="undo")
        assert (driver.path(NAME) / "file").read_text() == "one"
        driver.restore(NAME, "undo", keep_as="again")
    (driver.path(NAME) / "ballast").unlink(missing_ok=True)
    for one in names(driver):
        if one != "r1":
            driver.delete_snapshot(NAME, one)
    driver.upkeep()
    driver.restore(NAME, "r1", keep_as="later")
    assert (driver.path(NAME) / "file").read_text() == "one"
