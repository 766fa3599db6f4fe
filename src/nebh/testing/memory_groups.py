"""How much memory programs took: each by itself, and in control groups with a limit, page cache included."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nebh.host.cgroups import CgroupTree, find_tree
from nebh.model.errors import Broken, NotFound

ENTER = 'for one in $1; do echo $$ > "$one/cgroup.procs"; done; shift; exec "$@"'
_EVERY = 0.02


@dataclass(frozen=True)
class MemoryGroup:
    """One control group; in version 1 it is a folder below each controller."""

    folders: tuple[Path, ...]
    limit: int

    def enter(self, pid: int) -> None:
        """Move a process."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def entering(self, *argv: str) -> tuple[str, ...]:
        """Return `argv` so that it runs in the group from its first instruction."""
        return ("sh", "-c", ENTER, "sh", " ".join(map(str, self.folders)), *argv)

    def most_used(self) -> int:
        """Return the most bytes it ever had. The limit where the kernel does not say it."""
        for folder in self.folders:
            for name in ("memory.peak", "memory.max_usage_in_bytes"):
                if (folder / name).exists():
                    return int((folder / name).read_text())
        return self.limit

    def killed(self) -> int:
        """Return how many of its processes the kernel ended for want of memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                if (folder / name).exists():
                    words = (folder / name).read_text().split()
                    return int(words[words.index("oom_kill") + 1])
        raise AssertionError(f"no memory controller in {self.folders}")


@contextlib.contextmanager
def memory_groups(*names: str, limit: int) -> Iterator[dict[str, MemoryGroup]]:
    """Give groups with `limit` bytes each. At the end what is left in them moves to the root group. Raises NotFound
    where none can be made."""
    tree = find_tree(f"nt-large-{secrets.token_hex(3)}")
    if os.geteuid() != 0 or tree.missing():
        raise NotFound("control groups cannot be made here")
    tree.prepare()
    made: dict[str, MemoryGroup] = {}
    try:
        for name in names:
            made[name] = MemoryGroup(tree.enter_build(name, memory=limit, cpu=2000, pids=4000), limit)
        yield made
    finally:
        for group in made.values():
            for folder in group.folders:
                _empty(folder)
        _destroy(tree)


def _empty(folder: Path) -> None:
    for pid in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (folder.parents[1] / "cgroup.procs").write_text(pid)


def _destroy(tree: CgroupTree) -> None:
    try:
        tree.destroy()
    except Broken as error:
        sys.stderr.write(f"{error}\n")


def peak(pid: int) -> int:
    """Return the most memory that a process ever had, or had since `forget_peak`, in bytes."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) << 10


def forget_peak(pid: int) -> None:
    """Have the kernel begin a process's peak anew with what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass
class Peaks:
    """Watches processes that `find` names, every 20 ms: `with` it. largest: most bytes of one process. together: most
    that those alive at one time had, each at its own highest; pages that several share count for each."""

    find: Callable[[], Iterable[int]]
    largest: int = 0
    together: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            self.look()

    def look(self) -> None:
        """Look once."""
        found = []
        for pid in frozenset(self.find()):
            with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
                found.append(peak(pid))
        self.largest, self.together = max([self.largest, *found]), max(self.together, sum(found))
