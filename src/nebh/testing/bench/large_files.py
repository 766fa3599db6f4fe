"""The memory that images with large files take: of who publishes them, of the controller, of the node."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from nebh.host.run import start
from nebh.model.errors import NotFound
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Settings, a_cloud
from nebh.testing.cloud import PROGRAMS, Cloud
from nebh.testing.docker import family
from nebh.testing.memory_groups import MemoryGroup, Peaks, forget_peak, memory_groups
from nebh.testing.tiny_service import write_random, write_service

MIB = 1 << 20
LIMIT = 512
"""MiB that all programs of the node together have in their control group, page cache included."""
WHO = {"publisher": "publisher", "controller": "controller", "node": "agent and executor with its workers"}
BOUNDS = {"publisher": 512.0, "controller": 256.0, "node": 256.0}
"""MiB of all processes of each together, whatever the image. publisher: three patches at once (`cli.moving.JOBS`), each with
old and new content mapped, 64 MiB, what making it takes, 64 MiB, and itself, 16 MiB (`images.delta`); 80 MiB of Python."""
GROWTH = 1.25
_CHANGES = 400


def measure(settings: Settings, record: Record) -> None:
    """Add rows `peaks`, one for each image, and `large`, each program's peak beside that of a small image."""
    sizes = {"small": 8, "large": 64} if settings.quick else {"small": 64, "large": 1024}
    with a_cloud() as cloud, contextlib.ExitStack() as stack:
        folder = cloud.folder / "service"
        folder.mkdir()
        spec = write_service(folder, page="large")
        spec.write_text(spec.read_text().replace("startup_timeout: 20s", "startup_timeout: 2m"))
        cloud.nebh("deploy", str(spec))
        group: MemoryGroup | None = None
        try:
            group = stack.enter_context(memory_groups("node", limit=LIMIT * MIB))["node"]
            _enter(group, cloud)
        except NotFound as error:
            record.skipped[f"a node whose programs have {LIMIT} MiB"] = str(error)
        www = folder / "web" / "www"
        for image, size in sizes.items():
            write_random(www / "large", size * MIB)
            _deploy(record, cloud, spec, image=image, mib=size)
        (www / "large").unlink()
        count, size = (2, 8) if settings.quick else (4, 31)
        _write_many(www, count=count, size=size)
        cloud.nebh("deploy", str(spec))
        _change_many(www)
        _deploy(record, cloud, spec, image="patched", mib=count * size)
        if group is not None:
            record.add("group", limit=LIMIT, most=group.most_used() / MIB, killed=group.killed())
    small, large = record.tables["peaks"][:2]
    record.add("large", **{f"{who}_{row['image']}": row[who] for row in (small, large) for who in WHO})


def _enter(group: MemoryGroup, cloud: Cloud) -> None:
    for pid in cloud.processes():
        with contextlib.suppress(OSError):
            if b"nebh.programs." in Path(f"/proc/{pid}/cmdline").read_bytes():
                group.enter(pid)


def _write_many(www: Path, *, count: int, size: int) -> None:
    for number in range(count):
        write_random(www / f"part{number}", size * MIB)


def _change_many(www: Path) -> None:
    """Change each file in many places, so that it travels as a patch."""
    chance = random.Random(1)
    for path in sorted(www.glob("part*")):
        with path.open("r+b") as file:
            for _ in range(_CHANGES):
                file.seek(chance.randrange(path.stat().st_size - 100))
                file.write(chance.randbytes(100))


def _deploy(record: Record, cloud: Cloud, spec: Path, *, image: str, mib: int) -> None:
    """Push the service's image, then deploy it, and keep everybody's peaks."""
    programs = {name: cloud.pid_of(name) for name in PROGRAMS}
    for pid in programs.values():
        for one in tuple(family(pid)):
            forget_peak(one)
    source = f"dir:{spec.parent / 'web'}"
    controller: Callable[[], Iterable[int]] = lambda: family(programs["controller"])  # noqa: E731 - beside its like
    node: Callable[[], Iterable[int]] = lambda: chain(family(programs["agent"]), family(programs["executor"]))  # noqa: E731
    with Peaks(controller) as held, Peaks(node) as taken:
        publisher, told = _push(cloud, source)
        cloud.nebh("deploy", str(spec))
        held.look()
        taken.look()
    assert {name: cloud.pid_of(name) for name in PROGRAMS} == programs, "one of the programs was ended"
    found = {"publisher": publisher, "controller": held, "node": taken}
    row = {name: one.together / MIB for name, one in found.items()}
    row |= {f"{name}_process": one.largest / MIB for name, one in found.items()}
    record.add("peaks", image=image, mib=mib, sent=told["sent"] / MIB, patched=told["patched"], **row)


def _push(cloud: Cloud, source: str) -> tuple[Peaks, dict[str, int]]:
    command = cloud.command("image", "push", source, "--json")
    out = cloud.folder / "pushed.json"
    with out.open("wb") as file:
        process = start(command, stdout=file)
        with Peaks(lambda: family(process.pid)) as seen:
            status = process.wait(600)
    assert status == 0, f"the push ended with status {status}"
    told: dict[str, int] = json.loads(out.read_text())
    return seen, told


def add_figures(record: Record) -> None:
    """Compute the figures of what `measure` kept."""
    mib = {row["image"]: row["mib"] for row in record.tables.get("peaks", [])}
    texts = {
        "small": "a file of {} MiB",
        "large": "a file of {} MiB",
        "patched": "{} MiB in files that travel as patches",
    }
    for who, text in WHO.items():
        for image, size in mib.items():
            what = f"most memory, {text}: {texts[image].format(size)}"
            more = {"where": {"image": image}, "limit": BOUNDS[who], "statistic": "max"}
            record.figure(f"peak_{who}_{image}", what, unit="MiB", table="peaks", columns=(who,), **more)
        columns = (f"{who}_large", f"{who}_small")
        what = f"most memory, {text}: the large file / the small one"
        record.figure(
            f"peak_{who}_growth", what, unit="x", table="large", columns=columns, statistic="ratio", limit=GROWTH
        )
    what = f"processes ended for want of memory where the node's have {LIMIT} MiB, page cache included"
    record.figure("group_killed", what, unit="", table="group", columns=("killed",), limit=0.0)
    record.notes.append(
        """Most memory: all processes of each together, by VmHWM every 20 ms, mapped files included; what several share counts
for each. The bounds hold for any size: contents pass in pieces, and a patch is made only where old and new content together
have 64 MiB at most, three at once. `tests/e2e/test_large_file.py` has 2 GB pass where publisher and node have 512 MiB each."""
    )
