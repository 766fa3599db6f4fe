"""kill -9 of whoever snapshots, restores, clones or removes a volume, at every fault point and at any other instant:
the volume holds the old content or the new, whole, and the same call again finishes it."""

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

from nebh.drivers.volumes.base import POINTS
from nebh.model.errors import NotFound
from nebh.model.stored import VolumePlan
from nebh.testing import volume_rig
from nebh.testing.volume_rig import KINDS, prepare, read_rows, start_verb

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NAME = "db.data.0"
FILES = 12
VERBS = {
    "make": ("new.data.0",),
    "remove": (NAME,),
    "snapshot": (NAME, "r2"),
    "restore": (NAME, "r1", "undo"),
    "delete": (NAME, "r1"),
    "clone": (NAME, "r1", "db.try.0"),
    "receive": (NAME, "b1", "r1"),
}
PASSES = {
    **dict.fromkeys([point for point in POINTS if point.startswith("volume.restore")], "restore"),
    **dict.fromkeys([point for point in POINTS if point.startswith("volume.snapshot")], "snapshot"),
    "volume.make.staged": "make",
    "volume.clone.staged": "clone",
    "volume.receive.filled": "receive",
    "volume.copy.file:5": "restore",
    "volume.copy.file:7": "snapshot",
    "volume.copy.file:9": "clone",
    "volume.remove.named": "remove",
    "volume.remove.named:1": "delete",
}


def driver_for(kind: str, folder: Path):
    driver = volume_rig.driver_for(kind, folder)
    driver.open()
    return driver


@pytest.fixture(scope="module", params=KINDS)
def storage(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            prepare(request.param, folder, stack)
        except NotFound as error:
            pytest.skip(str(error))
        yield request.param, folder


@pytest.fixture
def kind_and_folder(storage):
    kind, folder = storage
    driver = driver_for(kind, folder)
    for one in driver.list():
        driver.remove(one.name)
    fill(driver.make(VolumePlan(name=NAME)), "old")
    driver.snapshot(NAME, "r1")
    fill(driver.path(NAME), "new")
    return storage


def fill(place: Path, text: str) -> None:
    for number in range(FILES):
        (place / f"{number}").write_text(f"{text} {number}")


def content(place: Path) -> str:
    """Return which of the two it is. A mix is neither."""
    texts = {path.read_text().split()[0] for path in place.iterdir()}
    assert len(list(place.iterdir())) == FILES, sorted(place.iterdir())
    assert len(texts) == 1, f"a mix: {texts}"
    return texts.pop()


def run_verb(kind: str, folder: Path, verb: str, *, fault: str = "") -> int:
    process = start_verb(kind, folder, verb, *VERBS[verb], env={"NEBH_FAULT": fault} if fault else None)
    assert process.stdout is not None
    said = process.stdout.read()
    process.stdout.close()
    status = process.wait(60)
    assert (said == b"done\n") == (status == 0)
    return status


def check_whole(kind: str, folder: Path) -> dict[str, list[str]]:
    """What a new process finds after the crash."""
    driver = driver_for(kind, folder)
    found = {one.name: [snapshot.name for snapshot in one.snapshots] for one in driver.list()}
    for name, snapshots in found.items():
        if name == "new.data.0":
            assert list(driver.path(name).iterdir()) == []
            continue
        assert content(driver.path(name)) in ("old", "new")
        for snapshot in snapshots:
            old = snapshot in ("r1", "b1")
            assert content(driver.snapshot_path(name, snapshot)) == ("old" if old else "new")
    return found


def check_done(kind: str, folder: Path, verb: str) -> None:
    driver = driver_for(kind, folder)
    found = check_whole(kind, folder)
    if verb == "make":
        assert found == {NAME: ["r1"], "new.data.0": []}
    elif verb == "remove":
        assert found == {}
    elif verb == "snapshot":
        assert found == {NAME: ["r1", "r2"]}
    elif verb == "restore":
        assert found == {NAME: ["r1", "undo"]}
        assert content(driver.path(NAME)) == "old"
    elif verb == "receive":
        assert {name: set(names) for name, names in found.items()} == {NAME: {"r1", "b1"}}
    elif verb == "delete":
        assert found == {NAME: []}
    else:
        assert found == {NAME: ["r1"], "db.try.0": []}
        assert content(driver.path("db.try.0")) == "old"
    if verb not in ("restore", "remove"):
        assert content(driver.path(NAME)) == "new"


def check_no_litter(kind: str, folder: Path) -> None:
    driver = driver_for(kind, folder)
    driver.upkeep()
    (root,) = [
        path for path in (folder / "volumes", folder / "pool/volumes", folder / "btrfs/volumes") if path.is_dir()
    ]
    assert list((root / ".gone").iterdir()) == []
    assert list((root / ".making").iterdir()) == []
    assert not [path for one in driver.list() for path in (root / one.name / "making").iterdir()]


@pytest.mark.parametrize("point", sorted(PASSES))
def test_killed_at_a_fault_point(kind_and_folder, point):
    kind, folder = kind_and_folder
    verb = PASSES[point]
    status = run_verb(kind, folder, verb, fault=point)
    if kind == "btrfs" and point.startswith("volume.copy"):
        assert status == 0, "nothing is copied"
    else:
        assert status == -signal.SIGKILL, "the point was not passed"
    check_whole(kind, folder)
    for _ in range(2):
        assert run_verb(kind, folder, verb) == 0
        check_done(kind, folder, verb)
    check_no_litter(kind, folder)


def test_every_fault_point_is_tried():
    assert {point.partition(":")[0] for point in PASSES} == set(POINTS)


def test_killed_while_it_finishes_what_a_crash_left(kind_and_folder):
    kind, folder = kind_and_folder
    assert run_verb(kind, folder, "restore", fault="volume.restore.exchanged") == -signal.SIGKILL
    assert run_verb(kind, folder, "restore", fault="volume.restore.kept") in (0, -signal.SIGKILL)
    check_done(kind, folder, "restore")


def kill_at_any_time(kind: str, folder: Path, rng: Random, *, count: int) -> None:
    for _ in range(count):
        verb = rng.choice(("snapshot", "restore", "restore", "clone"))
        process = start_verb(kind, folder, verb, *VERBS[verb])
        time.sleep(rng.uniform(0.08, 0.35))
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        check_whole(kind, folder)
        assert run_verb(kind, folder, verb) == 0
        driver = driver_for(kind, folder)
        if verb == "restore":
            driver.restore(NAME, "undo", keep_as="again")
            driver.delete_snapshot(NAME, "undo")
            driver.delete_snapshot(NAME, "again")
        elif verb == "snapshot":
            driver.delete_snapshot(NAME, "r2")
        else:
            driver.remove("db.try.0")
        assert check_whole(kind, folder) == {NAME: ["r1"]}
        assert content(driver.path(NAME)) == "new"
    check_no_litter(kind, folder)


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=pytest.mark.long)])
def test_killed_at_any_time(kind_and_folder, count):
    seed = secrets.randbelow(1 << 32)
    print(f"seed {seed}")
    kill_at_any_time(*kind_and_folder, Random(seed), count=count)


def test_a_snapshot_holds_every_row_that_was_written_before_it(kind_and_folder):
    """The writer goes on where the storage takes an instant; elsewhere it is stopped, as a service is."""
    kind, folder = kind_and_folder
    driver = driver_for(kind, folder)
    driver.remove(NAME)
    writer = start_verb(kind, folder, "write", str(driver.make(VolumePlan(name=NAME))))
    assert writer.stdout is not None
    try:
        lines, known = iter(writer.stdout.readline, b""), {}
        for turn in range(6):
            for _ in range(5):
                said = int(next(lines))
            if kind != "btrfs":
                writer.send_signal(signal.SIGSTOP)
            driver.snapshot(NAME, f"s{turn}")
            writer.send_signal(signal.SIGCONT)
            known[f"s{turn}"] = said
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    for snapshot, said in known.items():
        rows = read_rows(driver.snapshot_path(NAME, snapshot))
        assert len(rows) >= said, f"{snapshot} lacks rows that were on the disk before it"
    live = read_rows(driver.path(NAME))
    driver.restore(NAME, "s2", keep_as="undo")
    assert read_rows(driver.path(NAME)) == read_rows(driver.snapshot_path(NAME, "s2"))
    assert read_rows(driver.snapshot_path(NAME, "undo")) == live


def test_the_rows_show_a_mix(tmp_path):
    """The positive control: what a copy taken while the writer writes would look like."""
    process = start_verb("copy", tmp_path, "write", str(tmp_path))
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    read_rows(tmp_path)
    with open(tmp_path / "other", "ab") as file:
        file.write(b"99\n")
    with pytest.raises(AssertionError, match="a mix"):
        read_rows(tmp_path)
    os.truncate(tmp_path / "rows", 0)
    (tmp_path / "rows").write_text("1\n3\n")
    with pytest.raises(AssertionError, match="missing"):
        read_rows(tmp_path)
