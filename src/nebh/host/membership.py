"""Putting processes into control groups, and the wait that this costs.

Who moves a process by its pid waits for an RCU grace period, 10 ms and more, unless somebody has just waited for one
(the kernel stops all forks meanwhile: `cgroup_procs_write_start`). In version 1 nothing waits when a process of one
thread moves itself, by writing 0 to `tasks`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nebh.host.cgroups import CONTROLLERS, ROOT

_seen: set[Path] = set()  # folders of ours that are what their path says


@contextlib.contextmanager
def inside(folders: tuple[Path, ...]) -> Iterator[bool]:
    """Be in these groups for a moment: what is started there stays in them. Must be called with one thread.

    Gives False, and does nothing, where only a move by pid is possible (version 2).
    """
    found = _homes()
    homes = tuple(found[_hierarchy(folder)] for folder in folders if _hierarchy(folder) in found)
    if len(homes) < len(folders):
        yield False
        return
    try:
        for folder in folders:
            _write(folder / "tasks", "0")
        yield True
    finally:
        try:
            for home in homes:
                _write(home / "tasks", "0")
        except OSError:
            os._exit(1)  # whoever ends those groups would end us with them: our parent starts us anew


def enter(folders: tuple[Path, ...], pid: int) -> None:
    """Move a process. Waits as said above."""
    for folder in folders:
        _write(folder / "cgroup.procs", str(pid))


def wait_ahead() -> None:
    """Wait for the grace period now, so that whoever moves a process next need not: version 1 only."""
    home = next(iter(_homes().values()), None)
    if home is not None:
        with contextlib.suppress(OSError):
            _write(home / "cgroup.procs", "0")  # where we are already


def _hierarchy(folder: Path) -> Path:
    return ROOT / folder.relative_to(ROOT).parts[0]


def _homes() -> dict[Path, Path]:
    """Return this process's folders in hierarchies of version 1, as far as they can be told."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            folder = ROOT / name / path.lstrip("/")
            if name in CONTROLLERS and (folder in _seen or _holds_us(folder)):
                _seen.add(folder)
                found[ROOT / name] = folder
    return found


def _holds_us(folder: Path) -> bool:
    # the path is that of our cgroup namespace, which need not be what is mounted
    try:
        return (folder / "tasks").exists() and str(os.getpid()) in (folder / "cgroup.procs").read_text(
            encoding="ascii"
        ).split()
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)
