"""What a node costs that does nothing: memory, processor time, wake-ups; beside Docker's two daemons."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from nebh.model.errors import NotFound
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Settings, a_cloud, scratch
from nebh.testing.cloud import PROGRAMS, Cloud
from nebh.testing.docker import Docker, family
from nebh.testing.tiny_service import write_service

NAME = "memory"
TITLE = "An idle node"
SAMPLES = 5


def measure(settings: Settings, record: Record) -> None:
    """Fill the record: one service runs and gets no requests."""
    rest, watch = (10.0, 30.0) if settings.quick else (60.0, 300.0 if settings.seconds >= 400 else settings.seconds / 2)
    with a_cloud() as cloud, contextlib.ExitStack() as stack:
        (cloud.folder / "service").mkdir()
        cloud.nebh("deploy", str(write_service(cloud.folder / "service")))
        groups = {program: _family_of(cloud, program) for program in PROGRAMS}
        try:
            docker = stack.enter_context(Docker(scratch("d")))
            record.facts["docker"] = docker.version()
            groups["docker"] = docker.pids()
        except NotFound as error:
            record.skipped["Docker's daemons"] = str(error)
        time.sleep(rest)
        before = {name: _work(pids) for name, pids in groups.items()}
        for sample in range(SAMPLES):
            _sample(record, groups, sample)
            time.sleep(watch / SAMPLES)
        for name, pids in groups.items():
            ticks, switches = (now - then for now, then in zip(_work(pids), before[name], strict=True))
            record.add("work", who=name, seconds=watch, ticks=ticks, wakeups=switches, per_minute=switches * 60 / watch)
    _figures(record)


def _family_of(cloud: Cloud, program: str) -> tuple[int, ...]:
    """Return a program and its workers; the executor's launcher is the parent of no container."""
    return tuple(family(cloud.pid_of(program)))


def _sample(record: Record, groups: dict[str, tuple[int, ...]], sample: int) -> None:
    mib = {name: sum(_pss(record, name, pid, sample) for pid in pids) for name, pids in groups.items()}
    mib["together"] = mib["agent"] + mib["executor"]
    record.add("memory", sample=sample, **mib)


def _pss(record: Record, who: str, pid: int, sample: int) -> float:
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0])
    record.add(
        "processes",
        sample=sample,
        who=who,
        pid=pid,
        pss_kib=found["Pss"],
        rss_kib=found["Rss"],
        anonymous_kib=found["Pss_Anon"],
    )
    return found["Pss"] / 1024


def _work(pids: Iterable[int]) -> tuple[int, int]:
    """Return (ticks of processor time, times a thread was woken) so far."""
    ticks = switches = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):
                lines = status.read_text().splitlines()
                switches += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
    return ticks, switches


def _figures(record: Record) -> None:
    texts: dict[str, tuple[str, float | None, float | None]] = {
        "together": ("agent + executor with its two workers", 60.0, 45.0),
        "agent": ("of that the agent", None, None),
        "executor": ("of that the executor with its two workers", None, None),
        "controller": ("controller", 65.0, 52.0),
        "docker": ("dockerd + containerd", None, None),
    }
    for name, (what, limit, aim) in texts.items():
        record.figure(name, f"resident, {what}", unit="MiB", table="memory", columns=(name,), limit=limit, aim=aim)
    for name in (*PROGRAMS, "docker"):
        where = {"who": name}
        what = texts[name][0].removeprefix("of that the ")
        record.figure(
            f"{name}_ticks", f"ticks of processor time, {what}", unit="", table="work", columns=("ticks",), where=where
        )
        record.figure(
            f"{name}_wakeups",
            f"wake-ups per minute, {what}",
            unit="",
            table="work",
            columns=("per_minute",),
            where=where,
        )
    record.notes.append("PSS by /proc/PID/smaps_rollup: pages shared with other processes count in parts.")
