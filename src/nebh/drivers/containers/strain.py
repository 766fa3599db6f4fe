"""How near a container is to its bounds, read from its control groups and from /proc."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from nebh.host.cgroups import CgroupTree
from nebh.model.instance import Strain

_IN_MEMORY = ("/tmp", "/dev/shm")
_LEFT = 20  # full: less than a twentieth is left
_FEW = 256  # descriptors that need no second look


def measure_strain(cgroups: CgroupTree, instance: str, pid: int) -> Strain:
    """Return the strain of a running container whose first process is `pid`. What ends meanwhile counts as nothing."""
    processes, limit, refused = cgroups.processes(instance)
    most, most_of = 0, 0
    for member in cgroups.members(instance):
        held = _count(member)
        if held > most:
            most, most_of = held, member
    full, crowded = _scarce(pid)
    return Strain(
        processes=processes,
        process_limit=limit,
        refused=refused,
        killed=cgroups.oom_kills(instance),
        full=full,
        crowded=crowded,
        descriptors=most,
        descriptor_limit=_descriptor_limit(most_of) if most > _FEW else 0,
        sockets=_sockets(pid),
    )


def _count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _descriptor_limit(pid: int) -> int:
    return _read(f"/proc/{pid}/limits", r"^Max open files\s+(\d+)")


def _sockets(pid: int) -> int:
    """Of the network namespace, which is the container's own; connections that have ended count for a minute more."""
    path = f"/proc/{pid}/net/sockstat"
    return _read(path, r"^sockets: used (\d+)") + _read(path, r"^TCP: .* tw (\d+)")


def _read(path: str, pattern: str) -> int:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _scarce(pid: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (those whose bytes, those whose files are all but used up)."""
    full, crowded = [], []
    for path in _IN_MEMORY:
        with contextlib.suppress(OSError):
            space = os.statvfs(f"/proc/{pid}/root{path}")
            if space.f_bfree * _LEFT < space.f_blocks:
                full.append(path)
            if space.f_ffree * _LEFT < space.f_files:
                crowded.append(path)
    return tuple(full), tuple(crowded)
