"""The disk below a pool of volumes: it goes away, or its power is cut at any instant of snapshots and restores."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from random import Random

import pytest

from nebh.drivers.volumes.base import StorageGone
from nebh.drivers.volumes.btrfs import btrfs_volumes
from nebh.drivers.volumes.copy import copy_volumes
from nebh.drivers.volumes.pool import BtrfsPool, PoolPlan, find_lack
from nebh.host.run import Command, run
from nebh.model.errors import NebhError
from nebh.model.stored import VolumePlan
from nebh.testing.apart import apart
from nebh.testing.disks.disk import Disk, RecordedDisk, find_obstacle
from nebh.testing.disks.pools import FailingDevice, attach
from nebh.testing.disks.recording import Recording
from nebh.testing.volume_rig import read_rows, start_verb

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

NAME = "db.data.0"
SIZE = 160 << 20


@pytest.fixture
def folder(tmp_path):
    if obstacle := find_obstacle():
        pytest.skip(f"no disk of our own: {obstacle}")
    if lack := find_lack(PoolPlan(mount=tmp_path / "pool")):
        pytest.skip(f"no pool of volumes: {lack}")
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def pool_on(device: Path, mount: Path) -> BtrfsPool:
    return BtrfsPool(PoolPlan(mount=mount, device=device))


@apart
def test_a_device_that_goes_away_is_told_and_comes_back(folder):
    disk = FailingDevice(folder / "disk", size=SIZE)
    pool = pool_on(disk.device, folder / "pool")
    driver = btrfs_volumes(folder / "pool" / "volumes", pool=pool)
    try:
        driver.open()
        place = driver.make(VolumePlan(name=NAME))
        (place / "file").write_text("one")
        driver.snapshot(NAME, "r1")
        (place / "file").write_text("two")
        os.sync()
        disk.fuse.tell("fail 0 1000000")
        (place / "more").write_bytes(os.urandom(1 << 20))
        with pytest.raises(StorageGone) as caught:
            for number in range(5):
                driver.snapshot(NAME, f"lost-{number}")
        assert "db.data.0" in str(caught.value)
        assert caught.value.hint
        with pytest.raises(StorageGone):
            driver.check()
        for verb in (lambda: driver.restore(NAME, "r1", keep_as="undo"), lambda: driver.make(VolumePlan(name="a.b.0"))):
            with pytest.raises(StorageGone):
                verb()
        disk.fuse.tell("heal")
        driver.open()
        driver.check()
        assert "r1" in [one.name for one in driver.list()[0].snapshots]
        assert (driver.path(NAME) / "file").read_text() == "two"
        driver.restore(NAME, "r1", keep_as="undo")
        assert (driver.path(NAME) / "file").read_text() == "one"
        assert (driver.snapshot_path(NAME, "undo") / "file").read_text() == "two"
    finally:
        pool.close()
        disk.close()


class Story:
    """Verbs done on a recorded disk, rows written between them, and how long the record was then."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.notes: list[tuple[int, str, int]] = []

    def note(self, what: str, value: int = 0) -> None:
        self.notes.append((self._log.stat().st_size, what, value))

    def tell(self, driver) -> None:
        """A writer writes; between its turns: snapshots, and one goes back to an earlier one, and forth again."""
        driver.make(VolumePlan(name=NAME))
        self.note("made")
        for turn in range(3):
            self.write(driver.path(NAME), 8)
            driver.snapshot(NAME, f"s{turn}")
            self.note(f"snapshot s{turn}", self.rows_written())
        self.restore(driver, "s0", "undo")
        self.write(driver.path(NAME), 3)
        self.restore(driver, "undo", "again")
        self.note("deleting s1")
        driver.delete_snapshot(NAME, "s1")
        self.write(driver.path(NAME), 3)

    def restore(self, driver, snapshot: str, keep_as: str) -> None:
        written = self.rows_written()
        self.note(f"restoring {snapshot}")
        driver.restore(NAME, snapshot, keep_as=keep_as)
        self.note("restored", len(read_rows(driver.path(NAME))))
        self.note(f"snapshot {keep_as}", written)

    def rows_written(self) -> int:
        return next((value for _, what, value in reversed(self.notes) if what in ("row", "restored")), 0)

    def write(self, place: Path, count: int) -> None:
        process = start_verb("", place, "write", str(place))
        assert process.stdout is not None
        for _ in range(count):
            self.note("row", int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def check(self, driver, at: int) -> None:
        """What a disk that lost its power then must hold: all that had returned, and of what was under way the old or
        the new."""
        driver.open()
        made, live, coming = False, 0, ""
        least: dict[str, int] = {}
        for _, what, value in (note for note in self.notes if note[0] <= at):
            word, _, name = what.partition(" ")
            if word == "made":
                made = True
            elif word == "row":
                live = value
            elif word == "snapshot":
                least[name] = value
            elif word == "restoring":
                coming = name
            elif word == "restored":
                live, coming = value, ""
            elif word == "deleting":
                least.pop(name)
        found = {one.name: [snapshot.name for snapshot in one.snapshots] for one in driver.list()}
        if not made:
            assert found in ({}, {NAME: []})
            return
        rows = {name: len(read_rows(driver.snapshot_path(NAME, name))) for name in found[NAME]}
        there = len(read_rows(driver.path(NAME)))
        assert there >= live or (coming and there == rows[coming]), f"rows on the disk were lost: {there} of {live}"
        for name, count in least.items():
            assert name in rows, f"snapshot {name} was lost"
            assert rows[name] >= count, f"snapshot {name} lacks rows"


def play(kind: str, folder: Path, *, cuts: int, seed: int) -> int:
    """Record the story on one disk, and look at what `cuts` power cuts leave of it."""
    print(f"seed {seed}")
    with contextlib.ExitStack() as stack:
        story, recording, base = record(kind, folder, stack)
        target = folder / "cut"
        chosen = recording.cuts(after=story.notes[0][0], count=cuts, rng=Random(seed))
        for cut in recording.build(base, target, chosen):
            with contextlib.ExitStack() as one:
                story.check(open_cut(kind, target, folder, one), cut.at)
    return len(chosen)


def record(kind: str, folder: Path, stack: contextlib.ExitStack) -> tuple[Story, Recording, Path]:
    if kind == "btrfs":
        disk = FailingDevice(folder / "disk", size=SIZE)
        stack.callback(disk.close)
        pool = pool_on(disk.device, folder / "pool")
        stack.callback(pool.close)
        driver, log, base = btrfs_volumes(folder / "pool" / "volumes", pool=pool), disk.fuse.log, disk.fuse.base
        driver.open()
        story = Story(log)
        story.tell(driver)
        pool.close()
        forget(disk.device)
    else:
        plain = RecordedDisk(folder / "disk", size=48 << 20)
        stack.callback(plain.close)
        (folder / "ext4").mkdir()
        plain.mount(folder / "ext4")
        driver, log, base = copy_volumes(folder / "ext4" / "volumes"), plain.log, plain.base
        driver.open()
        story = Story(log)
        story.tell(driver)
        plain.unmount()
    return story, Recording(log), base


def forget(device: Path | str) -> None:
    """The kernel keeps in mind which btrfs it has seen where, and takes an older state of the same for a mistake."""
    run(Command(argv=("btrfs", "device", "scan", "--forget", str(device)), accept=(0, 1)))


def open_cut(kind: str, target: Path, folder: Path, stack: contextlib.ExitStack):
    if kind == "btrfs":
        device = attach(target)
        stack.callback(os.system, f"losetup -d {device}")
        stack.callback(forget, device)
        pool = pool_on(Path(device), folder / "after")
        stack.callback(pool.close)
        return btrfs_volumes(folder / "after" / "volumes", pool=pool)
    (folder / "after").mkdir(exist_ok=True)
    disk = Disk(target)
    disk.mount(folder / "after")
    stack.callback(disk.unmount)
    return copy_volumes(folder / "after" / "volumes")


@pytest.mark.parametrize("kind", ["btrfs", "copy"])
@pytest.mark.parametrize("cuts", [6, pytest.param(150, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
@apart
def test_power_cuts(folder, kind, cuts):
    begin = time.monotonic()
    looked = play(kind, folder, cuts=cuts, seed=secrets.randbelow(1 << 32))
    print(f"{looked} cuts in {time.monotonic() - begin:.0f} s")
    assert looked == cuts


def test_a_driver_that_acknowledges_too_early_is_found_out(folder):
    """The positive control: the same looks at a disk that has lost the last snapshot."""
    driver = copy_volumes(folder / "volumes")
    driver.open()
    log = folder / "log"
    log.write_bytes(b"")
    story = Story(log)
    story.tell(driver)
    story.check(driver, 0)
    driver.delete_snapshot(NAME, "s2")
    with pytest.raises((KeyError, AssertionError, NebhError)):
        story.check(driver, 0)
