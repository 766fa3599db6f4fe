"""Who takes part in measuring volumes: our drivers, each on a file system of its own, and beside each what a person would
use there: the btrfs command line, `cp --reflink`, `cp -a`, and a copy between two volumes of Docker."""

from __future__ import annotations

import contextlib
import shutil
import sys
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
from nebh.testing.bench.stage import scratch
from nebh.testing.container_rig import busybox
from nebh.testing.disks.disk import Disk, make_image
from nebh.testing.disks.pools import make_pool, mount_file_system
from nebh.testing.docker import Docker

MIB = 1 << 20
VOLUME = "db.data.0"
STORAGES = ("btrfs", "reflink", "copy")
COPIES = 3
"""What a storage that copies holds at once: the volume, a snapshot, and what a restore keeps."""
Argv = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """snapshot and restore, of round n; drop: what both left. place: the volume's folder now; live: the writer may go
    on. device: block device whose writes count. exact: words of a program that does one verb (`snapshot`, `restore`, or
    "" for what it does anyway), for those whose calls can be counted."""

    name: str
    snapshot: Callable[[int], None]
    restore: Callable[[int], None]
    drop: Callable[[int], None]
    place: Callable[[], Path]
    live: bool
    device: Callable[[], str]
    exact: Callable[[str, int], Argv] | None = None

    @property
    def slug(self) -> str:
        """Return the name as a column has it."""
        return self.slug_of(self.name)

    @staticmethod
    def slug_of(name: str) -> str:
        """Return a name as a column has it."""
        return name.replace("-", "").replace(" ", "_")


def contenders(
    storage: str, home: Path, *, mib: int, record: Record, stack: contextlib.ExitStack, fill: Callable[[Path], None]
) -> tuple[Contender, ...]:
    """Return those that take part on one kind of storage, its volume filled once for all; none where it cannot be had,
    which the record says."""
    home.mkdir(parents=True)
    copies = COPIES if storage == "copy" else 1
    size = (copies * mib * 21 // 20 + 1024) * MIB
    try:
        driver, place = _MAKERS[storage](home, size, stack)
    except NotFound as error:
        record.skipped[storage] = str(error)
        return ()
    driver.open()
    fill(driver.make(VolumePlan(name=VOLUME)))
    peers = place / "peers"
    peers.mkdir()

    def device() -> str:
        return _device_below(place)

    ours = _driven(storage, driver, home, device)
    if storage == "btrfs":
        return ours, _command_line(peers, driver.path(VOLUME), device)
    if storage == "reflink":
        return ours, _cp("cp --reflink", ("cp", "-a", "--reflink=always"), peers, driver, device)
    found = [ours, _cp("cp -a", ("cp", "-a"), peers, driver, device)]
    found.extend(_docker(peers, driver, device, record, stack))
    return tuple(found)


def _btrfs(home: Path, size: int, stack: contextlib.ExitStack) -> tuple[VolumeDriver, Path]:
    pool = make_pool(home, stack, size=size)
    return btrfs_volumes(home / "pool" / "volumes", pool=pool), home / "pool"


def _reflink(home: Path, size: int, stack: contextlib.ExitStack) -> tuple[VolumeDriver, Path]:
    try:
        place = mount_file_system("xfs", home, stack, size=size)
    except NotFound:
        place = mount_file_system("btrfs", home, stack, size=size)
    return reflink_volumes(place / "volumes"), place


def _copy(home: Path, size: int, stack: contextlib.ExitStack) -> tuple[VolumeDriver, Path]:
    make_image(home / "image", size=size, files=50_000)
    place, disk = home / "ext4", Disk(home / "image")
    place.mkdir()
    disk.mount(place)
    stack.callback(disk.unmount)
    return copy_volumes(place / "volumes"), place


_MAKERS = {"btrfs": _btrfs, "reflink": _reflink, "copy": _copy}


def _driven(name: str, driver: VolumeDriver, home: Path, device: Callable[[], str]) -> Contender:
    folder = home / "ext4" if name == "copy" else home

    def drop(number: int) -> None:
        driver.delete_snapshot(VOLUME, f"s{number}")
        driver.delete_snapshot(VOLUME, f"u{number}")

    def exact(verb: str, number: int) -> Argv:
        words = {"snapshot": (VOLUME, f"s{number}"), "restore": (VOLUME, f"s{number}", f"u{number}")}.get(verb, ())
        return (sys.executable, "-P", "-m", "nebh.testing.volume_rig", name, str(folder), verb or "open", *words)

    return Contender(
        name=name,
        snapshot=lambda number: driver.snapshot(VOLUME, f"s{number}"),
        restore=lambda number: driver.restore(VOLUME, f"s{number}", keep_as=f"u{number}"),
        drop=drop,
        place=lambda: driver.path(VOLUME),
        live=Ability.LIVE in driver.abilities,
        device=device,
        exact=exact,
    )


def _cp(name: str, words: Argv, home: Path, driver: VolumeDriver, device: Callable[[], str]) -> Contender:
    """A copy and a sync of that file system; a restore is a copy back to a new place."""

    def pair(verb: str, number: int) -> tuple[Path, Path]:
        kept = home / f"s{number}"
        return (driver.path(VOLUME), kept) if verb == "snapshot" else (kept, home / f"u{number}")

    def copy(verb: str, number: int) -> None:
        source, target = pair(verb, number)
        run(Command(argv=(*words, str(source), str(target)), timeout=None))
        run(Command(argv=("sync", "-f", str(target)), timeout=None))

    def exact(verb: str, number: int) -> Argv:
        source, target = map(str, pair(verb, number))
        return ("sh", "-c", f'{" ".join(words)} "$1" "$2" && sync -f "$2"', "sh", source, target) if verb else ("true",)

    return Contender(
        name=name,
        snapshot=lambda number: copy("snapshot", number),
        restore=lambda number: copy("restore", number),
        drop=lambda number: _remove(home / f"s{number}", home / f"u{number}"),
        place=lambda: driver.path(VOLUME),
        live=False,
        device=device,
        exact=exact,
    )


def _command_line(home: Path, filled: Path, device: Callable[[], str]) -> Contender:
    """`btrfs subvolume snapshot` and a sync; a restore is one and two renames."""
    live = home / "live"
    run(Command(argv=("btrfs", "subvolume", "snapshot", str(filled), str(live))))

    def words(verb: str, number: int) -> Argv:
        kept = f"{home}/s{number}"
        if verb == "snapshot":
            return ("btrfs", "subvolume", "snapshot", "-r", str(live), kept)
        lines = (
            f"btrfs subvolume snapshot {kept} {home}/new",
            f"mv {live} {home}/u{number}",
            f"mv {home}/new {live}",
            f"btrfs filesystem sync {home}",
        )
        return ("sh", "-ec", "\n".join(lines)) if verb else ("true",)

    def drop(number: int) -> None:
        run(Command(argv=("btrfs", "subvolume", "delete", str(home / f"s{number}"), str(home / f"u{number}"))))

    return Contender(
        name="btrfs command",
        snapshot=lambda number: _do(words("snapshot", number)),
        restore=lambda number: _do(words("restore", number)),
        drop=drop,
        place=lambda: live,
        live=True,
        device=device,
        exact=words,
    )


def _docker(
    home: Path, driver: VolumeDriver, device: Callable[[], str], record: Record, stack: contextlib.ExitStack
) -> Iterator[Contender]:
    """A container that copies from one volume into another; both are folders of the same file system."""
    try:
        tool = busybox()
        docker = stack.enter_context(Docker(scratch("d")))
    except NotFound as error:
        record.skipped["docker volume copy"] = str(error)
        return
    tree = home / "image"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(tool, tree / "bin" / "cp")
    docker.add_image("copier", tree)
    record.facts["docker"] = (
        f"{docker.version()} run --rm --network none -v from:/a:ro -v into:/b copier cp -a /a/. /b/"
    )

    def copy(source: Path, target: Path) -> None:
        target.mkdir()
        for name, place in (("from", source), ("into", target)):
            where = ("--opt", "type=none", "--opt", "o=bind", "--opt", f"device={place}")
            docker.docker("volume", "create", "--driver", "local", *where, name)
        mounts = ("-v", "from:/a:ro", "-v", "into:/b")
        words = ("run", "--rm", "--network", "none", *mounts, "copier", "/bin/cp", "-a", "/a/.", "/b/")
        docker.docker(*words, timeout=3600)
        run(Command(argv=("sync", "-f", str(target)), timeout=None))
        docker.docker("volume", "rm", "from", "into")

    yield Contender(
        name="docker volume copy",
        snapshot=lambda number: copy(driver.path(VOLUME), home / f"s{number}"),
        restore=lambda number: copy(home / f"s{number}", home / f"u{number}"),
        drop=lambda number: _remove(home / f"s{number}", home / f"u{number}"),
        place=lambda: driver.path(VOLUME),
        live=False,
        device=device,
    )


def _do(words: Argv) -> None:
    run(Command(argv=words, timeout=None))


def _remove(*paths: Path) -> None:
    _do(("rm", "-rf", *map(str, paths)))


def _device_below(place: Path) -> str:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return Path(next(words[0] for words in reversed(lines) if words[1] == str(place))).name
