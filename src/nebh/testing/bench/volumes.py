"""Snapshot and restore of a volume, by every driver, next to `cp -a` and the btrfs command line."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nebh.drivers.volumes.base import VolumeDriver
from nebh.drivers.volumes.btrfs import btrfs_volumes
from nebh.drivers.volumes.copy import copy_volumes, reflink_volumes
from nebh.host.run import Command, run
from nebh.model.errors import NotFound
from nebh.model.stored import Ability, VolumePlan
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings
from nebh.testing.disks.disk import Disk, make_image
from nebh.testing.disks.pools import make_pool, mount_file_system
from nebh.testing.volume_rig import start_verb

NAME = "volumes"
TITLE = "Volumes: snapshot and restore"
MIB = 1 << 20
VOLUME = "db.data.0"
_SMALL_FILES, _SMALL = 2000, 4096


@dataclass(frozen=True, kw_only=True)
class Contender:
    """snapshot and restore, of round n; drop: what both left. place: the volume's folder now; live: the writer may go
    on. device: block device whose writes count."""

    name: str
    snapshot: Callable[[int], None]
    restore: Callable[[int], None]
    drop: Callable[[int], None]
    place: Callable[[], Path]
    live: bool
    device: Callable[[], str]


def measure(settings: Settings, record: Record) -> None:
    """Fill a volume in each storage, then take turns."""
    mib = settings.volume_mib or (48 if settings.quick else 1024)
    with contextlib.ExitStack() as stack:
        found = list(_contenders(settings.folder, mib, record, stack))
        for one in found:
            fill(one.place(), mib)
        os.sync()
        for number in Rounds(settings, usual=12, quick=2):
            for one in found if number % 2 else reversed(found):
                record.add("verbs", **_measure_one(one, number, mib))
    record.skipped["docker volume copy"] = "there is no docker here; what it does is a `cp -a` in a container"
    _add_figures(record, [one.name for one in found], mib)


def fill(place: Path, mib: int) -> None:
    """Write a volume of about `mib` MiB: a few large files and many small ones."""
    chance = random.Random(1)
    small = place / "small"
    small.mkdir()
    for number in range(_SMALL_FILES):
        (small / f"{number}").write_bytes(chance.randbytes(_SMALL))
    rest = max(1, mib - _SMALL_FILES * _SMALL // MIB)
    for number in range(4):
        with (place / f"large{number}").open("wb") as file:
            for _ in range(rest // 4):
                file.write(chance.randbytes(MIB))


def _contenders(folder: Path, mib: int, record: Record, stack: contextlib.ExitStack) -> Iterator[Contender]:
    size = (4 * mib + 256) * MIB
    for name, make in (("btrfs", _btrfs), ("reflink", _reflink), ("copy", _copy)):
        home = folder / name
        home.mkdir()
        try:
            driver, device = make(home, size, stack)
        except NotFound as error:
            record.skipped[name] = str(error)
            continue
        driver.open()
        driver.make(VolumePlan(name=VOLUME))
        yield _driven(name, driver, device)
        if name == "btrfs":
            yield _command_line(home / "pool" / "plain", device)
        if name == "copy":
            yield _plain_copy(home / "ext4" / "plain", device)


def _driven(name: str, driver: VolumeDriver, device: Callable[[], str]) -> Contender:
    def drop(number: int) -> None:
        driver.delete_snapshot(VOLUME, f"s{number}")
        driver.delete_snapshot(VOLUME, f"u{number}")

    return Contender(
        name=name,
        snapshot=lambda number: driver.snapshot(VOLUME, f"s{number}"),
        restore=lambda number: driver.restore(VOLUME, f"s{number}", keep_as=f"u{number}"),
        drop=drop,
        place=lambda: driver.path(VOLUME),
        live=Ability.LIVE in driver.abilities,
        device=device,
    )


def _btrfs(home: Path, size: int, stack: contextlib.ExitStack) -> tuple[VolumeDriver, Callable[[], str]]:
    pool = make_pool(home, stack, size=size)
    return btrfs_volumes(home / "pool" / "volumes", pool=pool), lambda: _device_below(home / "pool")


def _reflink(home: Path, size: int, stack: contextlib.ExitStack) -> tuple[VolumeDriver, Callable[[], str]]:
    try:
        place = mount_file_system("xfs", home, stack, size=size)
    except NotFound:
        place = mount_file_system("btrfs", home, stack, size=size)
    return reflink_volumes(place / "volumes"), lambda: _device_below(place)


def _copy(home: Path, size: int, stack: contextlib.ExitStack) -> tuple[VolumeDriver, Callable[[], str]]:
    make_image(home / "image", size=size, files=50_000)
    place, disk = home / "ext4", Disk(home / "image")
    place.mkdir()
    disk.mount(place)
    stack.callback(disk.unmount)
    return copy_volumes(place / "volumes"), lambda: _device_below(place)


def _plain_copy(home: Path, device: Callable[[], str]) -> Contender:
    """`cp -a` and a sync of that file system; a restore is a copy back to a new place."""
    live = home / "live"
    live.mkdir(parents=True)

    def copy(source: Path, target: Path) -> None:
        run(Command(argv=("cp", "-a", str(source), str(target)), timeout=None))
        run(Command(argv=("sync", "-f", str(target)), timeout=None))

    return Contender(
        name="cp -a",
        snapshot=lambda number: copy(live, home / f"s{number}"),
        restore=lambda number: copy(home / f"s{number}", home / f"u{number}"),
        drop=lambda number: _remove(home / f"s{number}", home / f"u{number}"),
        place=lambda: live,
        live=False,
        device=device,
    )


def _command_line(home: Path, device: Callable[[], str]) -> Contender:
    """`btrfs subvolume snapshot` and a sync; a restore is one and two renames."""
    home.mkdir()
    live = home / "live"
    run(Command(argv=("btrfs", "subvolume", "create", str(live))))

    def snapshot(number: int) -> None:
        run(Command(argv=("btrfs", "subvolume", "snapshot", "-r", str(live), str(home / f"s{number}")), timeout=None))

    def restore(number: int) -> None:
        run(Command(argv=("btrfs", "subvolume", "snapshot", str(home / f"s{number}"), str(home / "new")), timeout=None))
        run(Command(argv=("mv", str(live), str(home / f"u{number}"))))
        run(Command(argv=("mv", str(home / "new"), str(live))))
        run(Command(argv=("btrfs", "filesystem", "sync", str(home)), timeout=None))

    def drop(number: int) -> None:
        run(Command(argv=("btrfs", "subvolume", "delete", str(home / f"s{number}"), str(home / f"u{number}"))))

    return Contender(
        name="btrfs command",
        snapshot=snapshot,
        restore=restore,
        drop=drop,
        place=lambda: live,
        live=True,
        device=device,
    )


def _remove(*paths: Path) -> None:
    run(Command(argv=("rm", "-rf", *map(str, paths)), timeout=None))


def _device_below(place: Path) -> str:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return Path(next(words[0] for words in reversed(lines) if words[1] == str(place))).name


def _written(device: str) -> int:
    """Return the bytes that a block device was given to write so far."""
    return int(Path(f"/sys/class/block/{device}/stat").read_text(encoding="ascii").split()[6]) * 512


def _measure_one(one: Contender, number: int, mib: int) -> dict[str, object]:
    """One snapshot with a writer, one restore without: as in an update."""
    device = one.device()
    writer = Writer(one)
    try:
        before, begin = _written(device), time.monotonic()
        writer.rest()
        one.snapshot(number)
        writer.go_on()
        snapshot = (time.monotonic() - begin) * 1000
    finally:
        stall = writer.close()
    run(Command(argv=("sync", "-f", str(one.place())), timeout=None))
    snapshot_bytes = _written(device) - before
    before, begin = _written(device), time.monotonic()
    one.restore(number)
    restore = (time.monotonic() - begin) * 1000
    run(Command(argv=("sync", "-f", str(one.place())), timeout=None))
    restore_bytes = _written(device) - before
    one.drop(number)
    return {
        "who": one.name,
        "mib": mib,
        "snapshot": snapshot,
        "restore": restore,
        "stall": stall,
        "snapshot_mib": snapshot_bytes / MIB,
        "restore_mib": restore_bytes / MIB,
    }


class Writer:
    """A program that writes rows with fsync; where the storage needs it, it is stopped around the snapshot."""

    def __init__(self, one: Contender) -> None:
        self._one = one
        self._process = start_verb("", one.place(), "write", str(one.place()))
        assert self._process.stdout is not None
        for _ in range(20):
            self._process.stdout.readline()
        os.set_blocking(self._process.stdout.fileno(), False)
        self._drain()
        self._begin = time.monotonic()
        self._longest = 0.0

    def _drain(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read() or b""

    def rest(self) -> None:
        """Before a snapshot."""
        self._begin = time.monotonic()
        if not self._one.live:
            self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After it; wait for the next row that was not under way."""
        self._process.send_signal(signal.SIGCONT)
        self._drain()
        while not self._drain():
            time.sleep(0.0002)
        self._longest = (time.monotonic() - self._begin) * 1000

    def close(self) -> float:
        """End it; return the ms from the beginning of the snapshot to the first row after it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._longest


def _add_figures(record: Record, names: list[str], mib: int) -> None:
    for verb, what in (("snapshot", "snapshot"), ("restore", "restore"), ("stall", "writer's stall in a snapshot")):
        for name in names:
            key = f"{verb}_{name.replace(' ', '_').replace('-', '')}"
            record.figure(key, f"{what} of {mib} MiB, {name}", table="verbs", columns=(verb,), where={"who": name})
    for verb in ("snapshot", "restore"):
        for name in names:
            key = f"{verb}_bytes_{name.replace(' ', '_').replace('-', '')}"
            what = f"written by a {verb} of {mib} MiB, {name}"
            record.figure(key, what, unit="MiB", table="verbs", columns=(f"{verb}_mib",), where={"who": name})
    record.notes.append(
        """Each storage is a file system of its own on a loop device; bytes are what that device was given, rows of a writer
included. The writer fsyncs each row; it is stopped around a snapshot where the storage takes longer than an instant, and its
stall is from the beginning of the snapshot to its first row afterwards. A restore is durable and keeps what it replaces; `cp -a`
copies to a new place. Reflink is on XFS where `mkfs.xfs` is installed, else on btrfs."""
    )
