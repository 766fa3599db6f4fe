"""Snapshot and restore of a volume, by every driver, next to what a person would use instead."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nebh.host.run import Command, CommandFailed, run
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings
from nebh.testing.bench.status import calls_by_name
from nebh.testing.bench.volume_peers import COPIES, MIB, STORAGES, Contender, contenders
from nebh.testing.volume_rig import start_verb

NAME = "volumes"
TITLE = "Volumes: snapshot and restore"
SPARE = 8 << 10
"""MiB of the disk that are left alone."""
LARGE = 20
"""The large volume is that many times the usual one."""
LARGE_SECONDS = 90.0
_SMALL_FILES, _SMALL = 2000, 4096
_VERBS = ("snapshot", "restore", "stall")
_PEERS = (
    ("btrfs", "btrfs command"),
    ("reflink", "cp --reflink"),
    ("copy", "cp -a"),
    ("copy", "docker volume copy"),
    ("btrfs", "cp -a"),
    ("reflink", "cp -a"),
)
_SYNCS = ("fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync")


def measure(settings: Settings, record: Record) -> None:
    """The usual size with all storages taking turns; the large one storage by storage, as large as the disk allows."""
    small = settings.volume_mib or (48 if settings.quick else 1024)
    _measure_size(settings, record, STORAGES, mib=small, size="small", usual=12)
    large = small * (2 if settings.quick else LARGE)
    brief = replace(settings, seconds=min(settings.seconds, LARGE_SECONDS))
    for storage in STORAGES:
        mib = min(large, fitting(settings.folder, storage))
        if mib < large:
            record.notes.append(f"The large volume of {storage} is {mib} MiB: the disk has no room for {large}.")
        _measure_size(brief, record, (storage,), mib=mib, size="large", usual=5)
    _add_figures(record)


def fitting(folder: Path, storage: str) -> int:
    """Return how many MiB a volume may have so that all copies of it fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free // MIB - SPARE
    return max(1, free * 20 // 21 // (COPIES if storage == "copy" else 1))


def _measure_size(
    settings: Settings, record: Record, storages: Sequence[str], *, mib: int, size: str, usual: int
) -> None:
    """Fill a volume in each storage, then take turns; nothing of it stays on the disk."""
    home = settings.folder / f"{size}-{storages[0]}"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        found: list[Contender] = []
        for storage in storages:
            made = contenders(
                storage, home / storage, mib=mib, record=record, stack=stack, fill=lambda place: fill(place, mib)
            )
            found.extend(made)
        os.sync()
        for number in Rounds(settings, usual=usual, quick=2):
            row: dict[str, object] = {}
            for one in found if number % 2 else reversed(found):
                row |= _measure_one(one, number)
            record.add("verbs", size=size, mib=mib, round=number, pressure=machine.pressure(), **row)
        if size == "small":
            _count(record, found)


def fill(place: Path, mib: int) -> None:
    """Write a volume of about `mib` MiB: a few large files and many small ones."""
    chance = random.Random(1)
    small = place / "small"
    small.mkdir()
    for number in range(_SMALL_FILES):
        (small / f"{number}").write_bytes(chance.randbytes(_SMALL))
    block = chance.randbytes(MIB)
    rest = max(4, mib - _SMALL_FILES * _SMALL // MIB)
    for number in range(4):
        with (place / f"large{number}").open("wb") as file:
            for _ in range(rest // 4):
                file.write(block)


def _written(device: str) -> int:
    """Return the bytes that a block device was given to write so far."""
    return int(Path(f"/sys/class/block/{device}/stat").read_text(encoding="ascii").split()[6]) * 512


def _measure_one(one: Contender, number: int) -> dict[str, object]:
    """One snapshot with a writer, one restore without: as in an update."""
    device = one.device()
    writer = Writer(one)
    try:
        before, begin = _written(device), time.monotonic()
        writer.rest()
        one.snapshot(number)
        snapshot = (time.monotonic() - begin) * 1000
        writer.go_on()
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
        f"{one.slug}_snapshot": snapshot,
        f"{one.slug}_restore": restore,
        f"{one.slug}_stall": stall,
        f"{one.slug}_snapshot_mib": snapshot_bytes / MIB,
        f"{one.slug}_restore_mib": restore_bytes / MIB,
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


def _count(record: Record, found: Sequence[Contender]) -> None:
    """Count the calls of each verb, without those that its program makes anyway."""
    if shutil.which("strace") is None:
        record.skipped["calls of a snapshot and a restore"] = "strace is not installed"
        return
    row: dict[str, object] = {}
    for one in found:
        if one.exact is None:
            continue
        try:
            anyway = _calls(one.exact("", 0))
            for verb in ("snapshot", "restore"):
                calls = _calls(one.exact(verb, 999))
                row[f"{one.slug}_{verb}_calls"] = sum(calls.values()) - sum(anyway.values())
                row[f"{one.slug}_{verb}_syncs"] = sum(calls.get(name, 0) - anyway.get(name, 0) for name in _SYNCS)
            one.drop(999)
        except CommandFailed as error:
            record.skipped[f"calls of {one.name}"] = error.message
    record.add("exact", **row)


def _calls(argv: tuple[str, ...]) -> dict[str, int]:
    env = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run(Command(argv=("strace", "-f", "-c", "-o", "/dev/stderr", *argv), env=env, timeout=600))
    return calls_by_name(done.stderr.decode(errors="replace"))


def _add_figures(record: Record) -> None:
    rows = record.tables.get("verbs", [])
    names = dict.fromkeys(key.removesuffix("_stall") for row in rows for key in row if key.endswith("_stall"))
    for size in ("small", "large"):
        for name in names:
            mine = [row for row in rows if row["size"] == size and f"{name}_stall" in row]
            if mine:
                _figures_of(record, name, size=size, mib=int(mine[0]["mib"]))
        _ratios(record, size)
    for name in names:
        for verb in ("snapshot", "restore"):
            for what, unit in (("calls", "system calls"), ("syncs", "syncs")):
                key = f"{name}_{verb}_{what}"
                record.figure(key, f"{unit} of a {verb}, {_said(name)}", unit="", table="exact", columns=(key,))
    record.notes.append(
        """Each storage is a file system of its own on a loop device, its volume filled once; peers work on the same data.
Bytes are what that device was given, rows of a writer included. The writer fsyncs each row; it is stopped around a snapshot
where the storage takes longer than an instant, and its stall is from the beginning of the snapshot to its first row
afterwards. A restore is durable and keeps what it replaces; `cp` and Docker copy to a new place, and the file system is
synced. Reflink is on XFS where `mkfs.xfs` is installed, else on btrfs. Storages took turns in the small size; the large one
was measured storage by storage, for room. Calls are those of a program that does the verb, without those it makes anyway."""
    )


def _figures_of(record: Record, name: str, *, size: str, mib: int) -> None:
    said, where = _said(name), {"size": size}
    for verb, what in zip(_VERBS, ("snapshot", "restore", "writer's stall in a snapshot"), strict=True):
        label = f"{what} of {mib} MiB, {said}"
        record.figure(f"{verb}_{size}_{name}", label, table="verbs", columns=(f"{name}_{verb}",), where=where)
    for verb in ("snapshot", "restore"):
        key, label = f"{verb}_bytes_{size}_{name}", f"written by a {verb} of {mib} MiB, {said}"
        record.figure(key, label, unit="MiB", table="verbs", columns=(f"{name}_{verb}_mib",), where=where)


def _ratios(record: Record, size: str) -> None:
    for ours, peer in _PEERS:
        slugs = [Contender.slug_of(one) for one in (ours, peer)]
        for verb in ("snapshot", "restore"):
            columns = [f"{slug}_{verb}" for slug in slugs]
            label = f"{verb}, {ours} / {peer}, the {size} volume"
            more: dict[str, Any] = {"unit": "x", "statistic": "ratio", "where": {"size": size}}
            record.figure(f"{verb}_{size}_{slugs[0]}_to_{slugs[1]}", label, table="verbs", columns=columns, **more)


def _said(slug: str) -> str:
    names = {Contender.slug_of(one): one for pair in _PEERS for one in pair}
    return names.get(slug, slug)
