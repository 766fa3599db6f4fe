"""How long `nebh status` takes from start to exit, beside a Python that does nothing."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nebh.host.run import Command, CommandFailed, run
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, a_cloud, in_turns
from nebh.testing.cloud import Cloud
from nebh.testing.tiny_service import write_service

NAME = "status"
TITLE = "`nebh status`"
_PROGRAM = ("-c", "from nebh.programs.nebh import main; main()")
"""As the installed `nebh` starts (packaging/tree.sh)."""
_COUNT = "import sys, atexit; atexit.register(lambda: sys.stderr.write(f'modules {len(sys.modules)}')); "
_COUNT += "from nebh.cli.main import main; main(['status'])"


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    with a_cloud() as cloud:
        (cloud.folder / "service").mkdir()
        cloud.nebh("deploy", str(write_service(cloud.folder / "service")))
        python = (sys.executable, "-P")
        commands = {"status": (*python, *_PROGRAM, "status"), "python": (*python, "-c", "pass")}
        commands["help"] = (*python, *_PROGRAM, "--help")
        for number in Rounds(settings, usual=60, quick=5):
            took: dict[str, float] = {}
            steps: list[Callable[[], None]] = [partial(_time, cloud, took, name, commands[name]) for name in commands]
            in_turns(number, steps[0], steps[1])
            steps[2]()
            record.add("rounds", round=number, pressure=machine.pressure(), **took)
        _companions(cloud, record, commands["status"])
    record.figure("status", "start -> exit", table="rounds", columns=("status",), limit=120.0, aim=60.0)
    record.figure("status_p10", "the same, 10th percentile", table="rounds", columns=("status",), statistic="p10")
    record.figure("python", "a Python that does nothing", table="rounds", columns=("python",))
    record.figure("help", "`nebh --help`", table="rounds", columns=("help",))
    record.figure(
        "ratio",
        "status / a Python that does nothing",
        unit="x",
        table="rounds",
        columns=("status", "python"),
        statistic="ratio",
    )
    for name in ("modules", "syscalls"):
        record.figure(name, f"{name} of one `nebh status`", unit="", table="exact", columns=(name,))


def _time(cloud: Cloud, took: dict[str, float], name: str, argv: tuple[str, ...]) -> None:
    command = Command(argv=cloud.inside(*argv), env=cloud.env)
    begin = time.perf_counter()
    run(command)
    took[name] = (time.perf_counter() - begin) * 1000


def _companions(cloud: Cloud, record: Record, argv: tuple[str, ...]) -> None:
    counted = run(Command(argv=cloud.inside(sys.executable, "-P", "-c", _COUNT), env=cloud.env))
    row = {"modules": int(re.findall(rb"modules (\d+)", counted.stderr)[0])}
    out = cloud.folder / "strace"
    with contextlib.suppress(CommandFailed, OSError):
        run(Command(argv=cloud.inside("strace", "-f", "-c", "-o", str(out), *argv), env=cloud.env))
        row["syscalls"] = total_calls(out)
    record.add("exact", **row)


def total_calls(path: Path) -> int:
    """Return the number of calls in a summary of `strace -c`."""
    last = next(line for line in reversed(path.read_text().splitlines()) if line.endswith("total"))
    return int(last.split()[3] if len(last.split()) > 4 else last.split()[2])


def calls_by_name(text: str) -> dict[str, int]:
    """Return how often each call was made, from a summary of `strace -c`."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) in (5, 6) and words[0].replace(".", "").isdigit() and words[-1] != "total":
            found[words[-1]] = int(words[3])
    return found
