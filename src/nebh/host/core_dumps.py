"""No memory of a process that holds values or keys is ever written out by the kernel."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path


def forbid_core_dumps() -> None:
    """Let neither a file nor a collector of core dumps have this process's memory, nor that of what it starts.

    The limit alone does not hold back a collector that the kernel pipes to (core(5)); the filter leaves it nothing.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # a kernel without core dumps has no filter
        Path("/proc/self/coredump_filter").write_text("0", encoding="ascii")
