"""The pool: found again after whatever ended its maker, grown when it must, never over anything of somebody else's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nebh.drivers.volumes import btrfs_calls as calls
from nebh.drivers.volumes.base import OutOfSpace, StorageGone, Unable
from nebh.drivers.volumes.btrfs import btrfs_volumes
from nebh.drivers.volumes.copy import copy_volumes, reflink_volumes
from nebh.drivers.volumes.pool import BtrfsPool, PoolPlan
from nebh.host.mount_points import share_mount_point
from nebh.host.namespaces import private_mounts
from nebh.model.errors import BadInput, Failed, NotFound
from nebh.model.stored import Ability, VolumePlan
from nebh.testing.apart import apart
from nebh.testing.disks.pools import make_pool

pytestmark = pytest.mark.root

MIB = 1 << 20
NAME = "db.data.0"


@pytest.fixture
def made(tmp_path):
    with contextlib.ExitStack() as stack:
        try:
            pool = make_pool(tmp_path, stack)
        except NotFound as error:
            pytest.skip(str(error))
        yield pool, tmp_path


def attached(file: Path) -> list[str]:
    argv = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


def driver_of(folder: Path, pool: BtrfsPool):
    return btrfs_volumes(folder / "pool" / "volumes", pool=pool)


def eventually(look, *, seconds: float = 40.0) -> None:
    """btrfs takes apart what was removed in the background."""
    end = time.monotonic() + seconds
    while True:
        try:
            return look()
        except (AssertionError, OutOfSpace):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def in_a_process(work) -> None:
    """Run `work` in a child with mounts of its own, which is killed at the end of it."""
    child = os.fork()
    if child == 0:
        try:
            private_mounts()
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@apart
def test_it_is_found_again_after_its_maker_was_killed(made):
    pool, folder = made

    def make() -> None:
        driver = driver_of(folder, pool)
        driver.open()
        (driver.make(VolumePlan(name=NAME)) / "file").write_text("one")
        driver.snapshot(NAME, "r1")

    in_a_process(make)
    assert not pool.mounted(), "the mount was its maker's own"
    before = attached(folder / "pool.btrfs")  # the kernel may have let it go with its last mount
    driver = driver_of(folder, pool)
    driver.open()
    (device,) = attached(folder / "pool.btrfs")
    assert before in ([], [device]), "a second loop device over one file would destroy it"
    assert [snapshot.name for snapshot in driver.list()[0].snapshots] == ["r1"]
    assert (driver.snapshot_path(NAME, "r1") / "file").read_text() == "one"
    driver.open()
    assert attached(folder / "pool.btrfs") == [device]
    pool.close()
    assert attached(folder / "pool.btrfs") == []
    with pytest.raises(StorageGone):
        driver.check()
    driver.open()
    assert (driver.snapshot_path(NAME, "r1") / "file").read_text() == "one"


@apart
def test_two_that_have_it_see_one_file_system(made):
    """A container keeps the mount of an executor that is gone: what the next one mounts is the same."""
    pool, folder = made
    driver = driver_of(folder, pool)
    driver.open()
    place = driver.make(VolumePlan(name=NAME))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            private_mounts()
            os.chdir(place)
            os.write(writing, b".")
            signal.pause()
        finally:
            os._exit(0)
    try:
        os.read(reading, 1)
        subprocess.run(["umount", folder / "pool"], check=True)
        assert not pool.mounted()
        driver.open()
        (driver.path(NAME) / "file").write_text("seen")
        assert (Path(f"/proc/{child}/cwd") / "file").read_text() == "seen"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


@apart
def test_helpers_see_what_is_mounted_after_they_were_forked(made):
    """Containers are started by a helper with mounts of its own: the pool can come, go and come again meanwhile."""
    pool, folder = made

    def work() -> None:
        share_mount_point(folder)
        share_mount_point(folder)
        ask, answer = os.pipe(), os.pipe()
        helper = os.fork()
        if helper == 0:
            try:
                private_mounts()
                os.write(answer[1], b".")
                os.read(ask[0], 1)
                found = (folder / "pool" / "volumes" / NAME).is_dir()
                os.write(answer[1], b"y" if found else b"n")
            finally:
                os._exit(0)
        os.read(answer[0], 1)
        driver = driver_of(folder, pool)
        driver.open()
        driver.make(VolumePlan(name=NAME))
        os.write(ask[1], b".")
        assert os.read(answer[0], 1) == b"y"
        os.waitpid(helper, 0)

    in_a_process(work)
    assert not pool.mounted(), "the host's mounts are as they were"


@apart
def test_it_grows_as_far_as_it_may_and_then_says_so(made):
    _, tmp_path = made
    with contextlib.ExitStack() as stack:
        pool = make_pool(tmp_path, stack, most=420 * MIB)
        driver = driver_of(tmp_path, pool)
        driver.open()
        place = driver.make(VolumePlan(name=NAME))
        file = tmp_path / "pool.btrfs"
        sizes = {file.stat().st_size}
        with open(place / "ballast", "wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
            while True:
                ballast.write(os.urandom(8 * MIB))
                os.fsync(ballast.fileno())
                driver.upkeep()
                sizes.add(file.stat().st_size)
        assert min(sizes) == 256 * MIB
        assert max(sizes) == 420 * MIB
        assert (place / "ballast").stat().st_size > 250 * MIB
        assert file.stat().st_blocks * 512 >= 420 * MIB, "it has all its blocks"
        with pytest.raises(OutOfSpace):
            driver.check()
        driver.remove(NAME)
        eventually(driver.check)


@apart
def test_growth_that_was_cut_short_is_finished(made):
    pool, folder = made
    driver_of(folder, pool).open()
    before = os.statvfs(folder / "pool").f_blocks
    with open(folder / "pool.btrfs", "r+b") as file:
        os.posix_fallocate(file.fileno(), 256 * MIB, 64 * MIB)
    driver_of(folder, pool).open()
    assert os.statvfs(folder / "pool").f_blocks > before


@apart
def test_it_leaves_the_reserve_of_the_disk_alone(made):
    _, folder = made
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    greedy = BtrfsPool(PoolPlan(mount=folder / "pool", file=folder / "other.btrfs", size=256 * MIB, spare=free - MIB))
    with pytest.raises(OutOfSpace, match="beyond its reserve"):
        greedy.open()
    assert not list(folder.glob("*other*"))
    with pytest.raises(BadInput, match="the least is"):
        BtrfsPool(PoolPlan(mount=folder / "pool", file=folder / "other.btrfs", size=MIB, spare=0)).open()


@apart
def test_a_device_with_something_on_it_is_refused(made):
    _, folder = made
    with contextlib.ExitStack() as stack:
        image = folder / "device"
        with image.open("wb") as file:
            file.truncate(260 * MIB)
        device = Path(subprocess.check_output(["losetup", "-f", "--show", image], text=True).strip())
        stack.callback(subprocess.run, ["losetup", "-d", device], check=False)
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        own = BtrfsPool(PoolPlan(mount=folder / "own", device=device))
        stack.callback(own.close)
        with pytest.raises(BadInput, match="it holds ext4"):
            own.open()
        subprocess.run(["wipefs", "-qa", device], check=True)
        for _ in range(2):
            own.open()
        driver = btrfs_volumes(folder / "own" / "volumes", pool=own)
        driver.open()
        driver.make(VolumePlan(name=NAME))
        own.close()
        driver.open()
        assert [one.name for one in driver.list()] == [NAME]
    with pytest.raises(BadInput, match="no block device"):
        BtrfsPool(PoolPlan(mount=folder / "own", device=Path("/dev/null"))).open()
    with pytest.raises(StorageGone, match="No such file"):
        BtrfsPool(PoolPlan(mount=folder / "own", device=Path("/dev/no-such-disk"))).open()


@apart
def test_a_subvolume_that_a_program_made_inside_is_told_bounded_and_removed(made):
    pool, folder = made
    driver = driver_of(folder, pool)
    driver.open()
    place = driver.make(VolumePlan(name=NAME, quota=16 * MIB))
    calls.create_subvolume(place, "stray")
    calls.create_subvolume(place / "stray", "inner\n")
    calls.create_snapshot(place, place, "copy", read_only=True)
    (place / "folder").mkdir()
    calls.create_subvolume(place / "folder", "sealed")
    calls.create_subvolume(place / "folder" / "sealed", "in it")
    calls.seal_subvolume(place / "folder" / "sealed")
    assert driver.usage(NAME).strays == 5
    (place / "stray" / "before").write_bytes(b"x")
    driver.upkeep()
    with pytest.raises(OSError, match="quota"):
        for name in ("stray", "stray/inner\n"):
            with open(place / name / "much", "wb", buffering=0) as file:
                file.write(os.urandom(4 * MIB))
                os.fsync(file.fileno())
    driver.snapshot(NAME, "r1")
    driver.restore(NAME, "r1", keep_as="undo")
    assert driver.usage(NAME).strays == 0
    driver.remove(NAME)
    assert driver.list() == ()

    def nothing_is_left() -> None:
        driver.upkeep()
        calls.sync_pool(folder / "pool")
        with calls.opened(folder / "pool") as descriptor:
            assert calls.read_subvolumes(descriptor) == set()
            assert [number for number in calls.read_counts(descriptor) if number >= 256] == []

    eventually(nothing_is_left)


@apart
def test_a_folder_that_cannot_do_it_says_so(tmp_path):
    with pytest.raises(Unable, match="no btrfs"):
        btrfs_volumes(tmp_path / "volumes").open()
    with pytest.raises(Unable, match="share blocks"):
        reflink_volumes(tmp_path / "volumes").open()
    assert not list((tmp_path / "volumes").iterdir()) or sorted(os.listdir(tmp_path / "volumes")) == [
        ".gone",
        ".making",
    ]


@apart
def test_a_device_file_is_not_copied(tmp_path):
    driver = copy_volumes(tmp_path / "volumes")
    driver.open()
    place = driver.make(VolumePlan(name=NAME))
    os.mknod(place / "disk", 0o60600, os.makedev(7, 0))
    with pytest.raises(Failed, match="device file"):
        driver.snapshot(NAME, "r1")
    assert driver.list()[0].snapshots == ()
    assert Ability.LIVE not in driver.abilities
