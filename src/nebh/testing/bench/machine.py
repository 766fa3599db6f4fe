"""On what was measured, and what else it did meanwhile."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from pathlib import Path
from typing import Any

from nebh.host.run import Command, CommandFailed, run
from nebh.testing.bench import sampling

CALM = 20.0
"""Percent of the last ten seconds in which something waited for a processor: above it a block is measured again."""
CALIBRATION = 0.02


def pressure() -> float:
    """Return `some avg10` of /proc/pressure/cpu, -1 where the kernel keeps none."""
    try:
        line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return -1.0
    return float(line.split("avg10=")[1].split()[0])


def stolen() -> int:
    """Return the ticks that the host gave to others."""
    return int(Path("/proc/stat").read_text().splitlines()[0].split()[8])


def load() -> dict[str, Any]:
    """Return what to note before and after a block."""
    return {"pressure": pressure(), "stolen": stolen(), "average": os.getloadavg()[0]}


def version_of(*argv: str) -> str:
    """Return the first line a program says of its version, "" without the program."""
    try:
        return (run(Command(argv=argv, timeout=20)).text.splitlines() or [""])[0].strip()
    except (CommandFailed, OSError):
        return ""


def describe() -> dict[str, Any]:
    """Return processor, kernel and the programs that take part."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory = next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    return {
        "processor": model[0] if model else platform.machine(),
        "processors": os.cpu_count(),
        "memory_mib": int(memory) // 1024,
        "kernel": platform.release(),
        "cgroups": 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        "python": platform.python_version(),
        "crun": version_of("crun", "--version"),
        "haproxy": version_of("haproxy", "-v"),
    }


def calibrate_once(rounds: int = 600) -> dict[str, Any]:
    """Time 24 blocks of SHA-256 against 20, paired, order flipped each round: a machine on which the median of ratios
    is not 1.2 cannot tell small differences apart. Both are far shorter than a time slice."""
    data = bytes(1 << 15)

    def work(blocks: int) -> float:
        begin = time.perf_counter()
        for _ in range(blocks):
            hashlib.sha256(data).digest()
        return time.perf_counter() - begin

    found = []
    for number in range(rounds):
        if number % 2:
            small, big = work(20), work(24)
        else:
            big, small = work(24), work(20)
        found.append(big / small)
    middle = sampling.median(found)
    low, high = sampling.bootstrap(found)
    return {
        "ratio": round(middle, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "ok": abs(middle / 1.2 - 1) <= CALIBRATION,
    }


def calibrate(*, tries: int = 8, rounds: int = 600) -> dict[str, Any]:
    """Calibrate until it is right, a few times at most; `tries` holds the ratio of every try, the last one counts."""
    seen: list[float] = []
    while True:
        found = calibrate_once(rounds)
        seen.append(found["ratio"])
        if found["ok"] or len(seen) >= tries:
            return {**found, "tries": seen}
        time.sleep(1)
