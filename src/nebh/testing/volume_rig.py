"""Volume drivers in processes that tests kill, and the rows by which they see what came back.

`python -m nebh.testing.volume_rig KIND FOLDER VERB WORDS...` does one verb of the driver whose storage `prepare` made
in FOLDER, with the fault points that NEBH_FAULT arms; `... write PLACE` numbers rows until it is ended, and prints each
number once the row is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from nebh.drivers.volumes.base import VolumeDriver
from nebh.drivers.volumes.btrfs import btrfs_volumes
from nebh.drivers.volumes.copy import copy_volumes, reflink_volumes
from nebh.drivers.volumes.pool import BtrfsPool, PoolPlan
from nebh.host import faults
from nebh.host.run import Command, Started, start
from nebh.host.trees import copy_tree
from nebh.model.stored import VolumePlan
from nebh.testing.disks.pools import make_pool, mount_file_system

KINDS = ("copy", "btrfs", "reflink")
_ROWS = ("rows", "other")


def prepare(kind: str, folder: Path, stack: contextlib.ExitStack, *, size: int = 256 << 20) -> VolumeDriver:
    """Make the storage of a kind in `folder` and return its driver, opened; `stack` takes it away. Raises NotFound,
    saying what this machine lacks."""
    if kind == "btrfs":
        make_pool(folder, stack, size=size, most=size)
    elif kind == "reflink":
        mount_file_system("btrfs", folder, stack, size=size)
    driver = driver_for(kind, folder)
    driver.open()
    return driver


def driver_for(kind: str, folder: Path) -> VolumeDriver:
    """Return a new driver of the storage that `prepare` made."""
    if kind == "copy":
        return copy_volumes(folder / "volumes")
    if kind == "reflink":
        place = folder / "xfs" if (folder / "xfs").exists() else folder / "btrfs"
        return reflink_volumes(place / "volumes")
    size = (folder / "pool.btrfs").stat().st_size if (folder / "pool.btrfs").exists() else 256 << 20
    plan = PoolPlan(mount=folder / "pool", file=folder / "pool.btrfs", size=size, most=size, spare=0)
    return btrfs_volumes(folder / "pool" / "volumes", pool=BtrfsPool(plan))


def start_verb(kind: str, folder: Path, verb: str, *words: str, env: dict[str, str] | None = None) -> Started:
    """Start a verb in a process of its own; its standard output is a pipe."""
    argv = (sys.executable, "-P", "-m", "nebh.testing.volume_rig", kind, str(folder), verb, *words)
    path = os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), *filter(None, sys.path)]))
    return start(Command(argv=argv, env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}), stdout=-1)


def main(argv: list[str]) -> None:
    """Do what the words say."""
    faults.arm(dict(os.environ))
    kind, folder, verb, *words = argv
    if verb == "write":
        write_rows(Path(words[0]))
        return
    driver = driver_for(kind, Path(folder))
    driver.open()
    if verb == "make":
        driver.make(VolumePlan(name=words[0]))
    elif verb == "remove":
        driver.remove(words[0])
    elif verb == "snapshot":
        driver.snapshot(words[0], words[1])
    elif verb == "restore":
        driver.restore(words[0], words[1], keep_as=words[2])
    elif verb == "delete":
        driver.delete_snapshot(words[0], words[1])
    elif verb == "clone":
        driver.clone(words[0], snapshot=words[1], to=VolumePlan(name=words[2]))
    elif verb == "receive":
        source = driver.snapshot_path(words[0], words[2])
        driver.receive(words[0], words[1], lambda place: copy_tree(source, place, clone=False))
    elif verb != "open":
        raise SystemExit(f"no such verb: {verb}")
    print("done", flush=True)


def write_rows(place: Path) -> None:
    """Number rows, each in one file and then in the other, until somebody ends this."""
    files = [os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in _ROWS]
    number = len(read_rows(place))
    if len(_read(place / _ROWS[1])) < number:  # the last writer was ended between the two
        os.write(files[1], f"{number}\n".encode())
        os.fsync(files[1])
    while True:
        number += 1
        for file in files:
            os.write(file, f"{number}\n".encode())
            os.fsync(file)
        print(number, flush=True)


def read_rows(place: Path) -> list[int]:
    """Return the numbers in a volume's first file. Raises AssertionError when a row is missing from the middle, or the
    second file is not the first one without at most its last row: then it is no state the writer ever made."""
    first, second = (_read(place / name) for name in _ROWS)
    assert first == list(range(1, len(first) + 1)), f"rows are missing: {first[-5:]}"
    assert second in (first, first[:-1]), f"a mix: {len(first)} rows and {len(second)}"
    return first


def _read(path: Path) -> list[int]:
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [int(line) for line in whole.split()]


if __name__ == "__main__":
    main(sys.argv[1:])
