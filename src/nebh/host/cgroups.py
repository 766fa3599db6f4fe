"""Control groups of one cloud: one folder per container below a parent, one per conmon beside them.

Version 2: PARENT/<container>, PARENT/conmon/<container>. Version 1 (and hybrid): the same below each controller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from nebh.model.errors import Broken

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids")
SERVICES = ("ingress", "dns", "backup")
_SERVICE_WEIGHT = 8  # what all services need is not starved by one: eight times a container's share of the processor
_CONMON_QUOTA_US, _PERIOD_US = 5_000, 100_000  # 5 % of a core: what a container may make its log writer burn


@dataclass(frozen=True, kw_only=True)
class CgroupTree:
    """A cloud's own folder in the hierarchies. parent: path below the mount, such as `nebh` or
    `nebh.slice/nebh-containers.service`; v2: whether this machine has version 2 only."""

    parent: str
    v2: bool
    root: Path = ROOT

    def path_of(self, instance: str) -> str:
        """Return the OCI cgroupsPath of a container."""
        return f"/{self.parent}/{instance}"

    def missing(self) -> tuple[str, ...]:
        """Return the controllers that this machine lacks."""
        return tuple(name for name in CONTROLLERS if not self._has(name))

    def prepare(self) -> None:
        """Make the folders. Raises Broken when a controller is missing."""
        missing = self.missing()
        if missing:
            raise Broken(
                f"cannot limit containers: this machine has no cgroup controller {', '.join(missing)}",
                hint="enable it in the kernel's command line (cgroup_enable=memory) or use another kernel",
            )
        for top in self._tops(CONTROLLERS):
            (top / self.parent / "conmon").mkdir(parents=True, exist_ok=True)
        if self.v2:
            self._delegate()

    def enter_conmon(self, instance: str) -> tuple[Path, ...]:
        """Make the folders of a container's conmon and return them: a process enters by its pid in cgroup.procs."""
        folders = tuple(top / self.parent / "conmon" / instance for top in self._tops(CONTROLLERS))
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return folders

    def enter_service(self, name: str, *, weight: float = _SERVICE_WEIGHT) -> tuple[str, ...]:
        """Make the folders of a program of ours beside the containers (one of SERVICES) and return them. weight: its share of
        the processor, in containers."""
        folders = tuple(top / self.parent / name for top in self._tops(CONTROLLERS))
        for folder in folders:
            folder.mkdir(exist_ok=True)
        own = self._top("cpu") / self.parent / name
        share = ("cpu.weight", 100) if self.v2 else ("cpu.shares", 1024)
        _write(own / share[0], str(int(share[1] * weight)))
        return tuple(map(str, folders))

    def enter_build(self, name: str, *, memory: int, cpu: int, pids: int) -> tuple[Path, ...]:
        """Make the folders of a build's commands with their limits (bytes, thousandths of a core, processes)."""
        folders = tuple(top / self.parent / name for top in self._tops(CONTROLLERS))
        for folder in folders:
            folder.mkdir(exist_ok=True)
        quota = max(1000, cpu * _PERIOD_US // 1000)
        _write(self._top("pids") / self.parent / name / "pids.max", str(pids))
        of_cpu, of_memory = (self._top(one) / self.parent / name for one in ("cpu", "memory"))
        if self.v2:
            _write(of_cpu / "cpu.max", f"{quota} {_PERIOD_US}")
            _write(of_memory / "memory.max", str(memory))
            _write(of_memory / "memory.swap.max", "0")
        else:
            _write(of_cpu / "cpu.cfs_period_us", str(_PERIOD_US))
            _write(of_cpu / "cpu.cfs_quota_us", str(quota))
            _write(of_memory / "memory.swappiness", "0")  # kernels that do not count swap would give it instead
            _write(of_memory / "memory.limit_in_bytes", str(memory))
            self.forbid_swap(name, memory)
        return folders

    def throttle_conmon(self, instance: str) -> None:
        """Hold a flood of output back at its pipe: from now on conmon gets a twentieth of a core."""
        folder = self._top("cpu") / self.parent / "conmon" / instance
        with contextlib.suppress(FileNotFoundError):  # the container has gone meanwhile
            if self.v2:
                _write(folder / "cpu.max", f"{_CONMON_QUOTA_US} {_PERIOD_US}")
            else:
                _write(folder / "cpu.cfs_period_us", str(_PERIOD_US))
                _write(folder / "cpu.cfs_quota_us", str(_CONMON_QUOTA_US))

    def forbid_swap(self, instance: str, memory: int) -> None:
        """Version 1: count swap as memory, where the kernel counts it at all (version 2 has it in the OCI config)."""
        path = self._top("memory") / self.parent / instance / "memory.memsw.limit_in_bytes"
        if not self.v2 and path.exists():
            _write(path, str(memory))

    def oom_kills(self, instance: str) -> int:
        """Return how many processes of a container the kernel has killed for want of memory; 0 when it is gone."""
        name = "memory.events" if self.v2 else "memory.oom_control"
        return _counter(self._top("memory") / self.parent / instance / name, "oom_kill")

    def memory_bytes(self, instance: str) -> int:
        """Return the memory a container uses now; 0 when it is gone."""
        name = "memory.current" if self.v2 else "memory.usage_in_bytes"
        return _number(self._top("memory") / self.parent / instance / name)

    def processes(self, instance: str) -> tuple[int, int, int]:
        """Return (how many a container has now, its limit, how many more were refused); zeros when it is gone."""
        folder = self._top("pids") / self.parent / instance
        return _number(folder / "pids.current"), _number(folder / "pids.max"), _counter(folder / "pids.events", "max")

    def members(self, instance: str) -> tuple[int, ...]:
        """Return the processes of a container."""
        try:
            text = (self._top("pids") / self.parent / instance / "cgroup.procs").read_text(encoding="ascii")
        except OSError:
            return ()
        return tuple(map(int, text.split()))

    def set_frozen(self, instance: str, *, frozen: bool) -> None:
        """Let all of a container stand still, or go on; one that is gone is left alone. Raises Broken where this machine
        has no freezer."""
        if self.v2:
            path, word = self.root / self.parent / instance / "cgroup.freeze", str(int(frozen))
        else:
            folder = self.root / "freezer"
            if not folder.is_dir():
                raise Broken("cannot freeze a container: this machine has no cgroup controller freezer")
            path, word = folder / self.parent / instance / "freezer.state", "FROZEN" if frozen else "THAWED"
        with contextlib.suppress(FileNotFoundError):
            path.write_text(word, encoding="ascii")

    def is_frozen(self, instance: str) -> bool:
        """Tell whether a container stands still because of `set_frozen`."""
        with contextlib.suppress(OSError):
            if self.v2:
                return (self.root / self.parent / instance / "cgroup.freeze").read_text(encoding="ascii").strip() == "1"
            state = self.root / "freezer" / self.parent / instance / "freezer.state"
            return state.read_text(encoding="ascii").strip() != "THAWED"
        return False

    def cpu_us(self, instance: str) -> int:
        """Return the processor time a container has used, in microseconds; 0 when it is gone."""
        if self.v2:
            return _counter(self.root / self.parent / instance / "cpu.stat", "usage_usec")
        return _number(self._top("cpuacct") / self.parent / instance / "cpuacct.usage") // 1000

    def throttled_us(self, instance: str) -> int:
        """Return for how long a container's cpu limit has held it back, in microseconds."""
        path = self._top("cpu") / self.parent / instance / "cpu.stat"
        return _counter(path, "throttled_usec") if self.v2 else _counter(path, "throttled_time") // 1000

    def instances(self) -> frozenset[str]:
        """Return the names that have a folder, be it of the container or of its conmon."""
        found: set[str] = set()
        for top in self._all_tops():
            for folder in (top / self.parent, top / self.parent / "conmon"):
                with contextlib.suppress(OSError):
                    found.update(entry.name for entry in folder.iterdir() if entry.is_dir())
        return frozenset(found - {"conmon", ".control", *SERVICES})

    def remove(self, instance: str) -> None:
        """Kill what still runs in a container's folders and remove them. Raises Broken when that takes over 5 s."""
        deadline = time.monotonic() + 5.0
        for top in self._all_tops():
            for folder in (top / self.parent / instance, top / self.parent / "conmon" / instance):
                while folder.exists() and not _remove_tree(folder):
                    if time.monotonic() > deadline:
                        raise Broken(f"cannot remove the cgroup {folder}: it still holds processes")
                    time.sleep(0.002)

    def destroy(self) -> None:
        """Remove the cloud's whole folder (everything in it is killed)."""
        for name in (*self.instances(), *SERVICES):
            self.remove(name)
        for top in self._all_tops():
            for folder in (top / self.parent / "conmon", top / self.parent):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _top(self, controller: str) -> Path:
        return self.root if self.v2 else self.root / controller

    def _tops(self, controllers: tuple[str, ...]) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self._top(name) for name in controllers))

    def _all_tops(self) -> tuple[Path, ...]:
        if self.v2:
            return (self.root,)
        # cpu and cpuacct may be links to one folder: the same folder twice is harmless
        return tuple(sorted(entry for entry in self.root.iterdir() if entry.is_dir() and not entry.is_symlink()))

    def _has(self, controller: str) -> bool:
        if not self.v2:
            return (self.root / controller).is_dir()
        return controller in (self.root / "cgroup.controllers").read_text(encoding="ascii").split()

    def _delegate(self) -> None:
        """Hand the controllers down to our folder. Where systemd delegated it, they are there already."""
        wanted = " ".join(f"+{name}" for name in CONTROLLERS)
        steps = [self.root / Path(*Path(self.parent).parts[:count]) for count in range(len(Path(self.parent).parts))]
        own = self.root / self.parent
        if not set(CONTROLLERS) <= set((own / "cgroup.controllers").read_text(encoding="ascii").split()):
            for folder in steps:
                _write(folder / "cgroup.subtree_control", wanted)
        for folder in (own, own / "conmon"):
            _write(folder / "cgroup.subtree_control", wanted)


def find_tree(parent: str) -> CgroupTree:
    """Return the tree of a cloud on this machine."""
    return CgroupTree(parent=parent, v2=(ROOT / "cgroup.controllers").exists())


def hybrid_unified() -> Path | None:
    """Return where a hybrid machine shows its version 2 hierarchy, None on others."""
    path = ROOT / "unified"
    return path if (path / "cgroup.procs").exists() else None


def _remove_tree(folder: Path) -> bool:
    if (folder / "cgroup.kill").exists():
        _write(folder / "cgroup.kill", "1")
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            for pid in (Path(path) / "cgroup.procs").read_text(encoding="ascii").split():
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    return not folder.exists()


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write(text)


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max": no limit
        return 0


def _counter(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
