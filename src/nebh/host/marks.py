"""Instants of the paths that users feel, for measurements: `NEBH_FAULT_TIMES=FILE` appends `name<space>nanoseconds of
CLOCK_MONOTONIC` for each mark that is passed. Without the variable a mark costs one comparison."""

from __future__ import annotations

import os
import time

_file = -1


def arm(environ: dict[str, str]) -> None:
    """Read the variable; the executor calls it once when it starts."""
    global _file
    path = environ.get("NEBH_FAULT_TIMES", "")
    _file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if path else -1


def mark(name: str) -> None:
    """Pass the mark `name`."""
    if _file >= 0:
        os.write(_file, f"{name} {time.monotonic_ns()}\n".encode())
