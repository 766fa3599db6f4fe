"""Containers by crun and conmon (contract: base.ContainerDriver).

Everything about a container stands on the disk and in /proc, nothing in this object: a new driver on the same folders
goes on where a killed one stopped. `observe`, `start` and `signal` start no process: they read crun's status file and
/proc, write to crun's exec.fifo, and signal by pidfd.

    BUNDLES/<instance>/   config.json, etc/, rootfs/ (empty; the tree shows there in conmon's namespace), conmon's files
    LOGS/<instance>/      ctr.log, ctr.log.1 ...; outlives the container
    RUN/crun/<instance>/  crun's state      RUN/exits/<instance>  exit code      RUN/persist/<instance>/  oom mark
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal as signals
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nebh.drivers.containers import live_files, logs
from nebh.drivers.containers.base import ContainerPlan, PlacedFile
from nebh.drivers.containers.oci_config import render_process
from nebh.drivers.containers.secret_files import CONFIG, FOLDER, memory_files, render_with_env
from nebh.drivers.containers.strain import measure_strain
from nebh.host import processes
from nebh.host.cgroups import CgroupTree
from nebh.host.faults import point
from nebh.host.files import write_atomic
from nebh.host.launcher import Launch, give, launch, run_beside
from nebh.host.processes import ProcessId
from nebh.host.run import Command, CommandFailed, Result
from nebh.host.worker import Worker
from nebh.model.errors import Failed
from nebh.model.instance import CheckResult, Observed, Status, Strain
from nebh.model.secret import SecretFile

_PLAN = "nebh.json"
_SLOW = 60.0
_DETAIL = 300


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where a cloud keeps its containers. bundles and logs: below STATE; run: on a tmpfs, lost by a reboot. All their
    parents need o+x (crun walks there as the container's root). Paths of bundles stay below 60 characters, as
    conmon's socket must fit 108."""

    bundles: Path
    logs: Path
    run: Path

    def prepare(self) -> None:
        """Make the folders."""
        for path, mode in (
            (self.bundles, 0o711),
            (self.logs, 0o700),
            (self.run / "crun", 0o711),
            (self.run / "exits", 0o700),
            (self.run / "persist", 0o700),
        ):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)

    def bundle(self, instance: str) -> Path:
        """Return the bundle of a container."""
        return self.bundles / instance

    def root(self, instance: str) -> str:
        """Return InstanceFacts.root."""
        return str(self.bundles / instance / "rootfs")

    def etc_files(self, instance: str) -> dict[str, str]:
        """Return InstanceFacts.etc_files for the names every image has."""
        names = ("hostname", "hosts", "resolv.conf")
        return {name: str(self.bundles / instance / "etc" / name) for name in names}

    def file(self, instance: str, number: int) -> str:
        """Return where a container's file of this number lies: of InstanceFacts.files."""
        return str(self.bundles / instance / "files" / str(number))

    def live(self, instance: str) -> str:
        """Return where a container's live files lie: InstanceFacts.live."""
        return str(self.bundles / instance / live_files.FOLDER)


class CrunContainers:
    """The container driver. Thread-safe for different instances; one instance is one caller's at a time."""

    def __init__(
        self,
        *,
        folders: Folders,
        cgroups: CgroupTree,
        launcher: Worker,
        crun: str = "/usr/bin/crun",
        conmon: str = "/usr/bin/conmon",
    ) -> None:
        self._folders = folders
        self._cgroups = cgroups
        self._launcher = launcher
        self._crun = crun
        self._conmon = conmon
        self._fast_start = True
        self._fast_start_proven = False
        self._log_lock = threading.Lock()
        folders.prepare()
        cgroups.prepare()

    def create(self, plan: ContainerPlan) -> Observed:
        """Make everything but the exec; afterwards its status is `created`. A leftover of the same id goes first."""
        self.delete(plan.instance)
        bundle = self._folders.bundle(plan.instance)
        try:
            self._make_folders(plan, bundle)
            self._launch(plan, bundle)
            point("container.create.after")
        except BaseException:
            self.delete(plan.instance)
            raise
        config = json.loads(plan.config)
        self._cgroups.forbid_swap(plan.instance, config["linux"]["resources"]["memory"]["limit"])
        self._cgroups.throttle_conmon(plan.instance)
        self.rotate_logs(plan.instance)
        found = self.observe(plan.instance)
        _pin_oom_score(found.pid, config["process"]["oomScoreAdj"])
        return found

    def start(self, instance: str) -> Observed:
        """Let a created container run; a running one is left alone."""
        found = self.observe(instance)
        if found.status is Status.CREATED:
            self._let_go(instance, found)
            found = self.observe(instance)
        if found.status is Status.ABSENT:
            raise Failed(f"cannot start {instance}: it was never created, or it is gone")
        return found

    def observe(self, instance: str) -> Observed:
        """Say what is there now; never raises for an absent one. Reads a handful of small files (about 0.1 ms)."""
        conmon = self._conmon_of(instance)
        state = self._status_file(instance)
        if state is None:
            return Observed(instance=instance, status=Status.ABSENT, conmon_alive=conmon is not None)
        process = processes.identify(state["pid"])
        if process is not None and process.started == state["process-start-time"]:
            created = self._fifo(instance).exists()
            return Observed(
                instance=instance,
                status=Status.CREATED if created else Status.RUNNING,
                pid=process.pid,
                started=process.started,
                conmon_alive=conmon is not None,
            )
        code = self._exit_code(instance)
        return Observed(
            instance=instance,
            status=Status.STOPPED,
            pid=state["pid"],
            started=state["process-start-time"],
            exit_code=code,
            # the mark also appears when only a child was killed: it counts for the container that died of it
            oom=code == 128 + signals.SIGKILL and self._saw_oom(instance),
            conmon_alive=conmon is not None,
        )

    def list(self) -> tuple[str, ...]:
        """Return the ids of everything of ours: bundles, crun's state, conmon's files, cgroups."""
        run = self._folders.run
        found = set(self._cgroups.instances())
        for folder in (self._folders.bundles, run / "crun", run / "exits", run / "persist"):
            with contextlib.suppress(FileNotFoundError):
                found.update(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        return tuple(sorted(found))

    def signal(self, instance: str, name: str) -> None:
        """Send a signal (`TERM`, `HUP`, `KILL`) to the first process; a stopped one is left alone."""
        number = signals.Signals[f"SIG{name}"]
        found = self.observe(instance)
        if found.status in (Status.CREATED, Status.RUNNING):
            processes.send_signal(ProcessId(pid=found.pid, started=found.started), number)

    def freeze(self, instance: str) -> None:
        """As promised by the contract."""
        self._cgroups.set_frozen(instance, frozen=True)

    def thaw(self, instance: str) -> None:
        """As promised by the contract."""
        self._cgroups.set_frozen(instance, frozen=False)

    def delete(self, instance: str) -> None:
        """Kill and remove every trace but the logs."""
        if self._cgroups.is_frozen(instance):
            self.thaw(instance)  # nothing that stands still can be killed
        run, bundle = self._folders.run, self._folders.bundle(instance)
        conmon = self._conmon_of(instance)
        if (run / "crun" / instance).exists():
            self._run_crun("delete", "-f", instance, accept=tuple(range(256)))
        if conmon is not None:
            self._end_conmon(conmon)
        self._cgroups.remove(instance)
        point("container.delete.after_processes")
        _remove_folder(run / "crun" / instance)
        _remove_folder(run / "persist" / instance)
        (run / "exits" / instance).unlink(missing_ok=True)
        _remove_folder(bundle)

    def check(self, instance: str, argv: tuple[str, ...], timeout_ms: int) -> CheckResult:
        """Run a declared check inside, as confined as the container itself."""
        bundle = self._folders.bundle(instance)
        token = f"{threading.get_ident():x}"
        process_file = bundle / f"check-{token}.json"
        try:
            config = (bundle / "config.json").read_bytes()
            process_file.write_bytes(render_process(config, argv))
            accept, timeout = tuple(range(256)), timeout_ms / 1000
            done = self._run_crun("exec", "--process", str(process_file), instance, accept=accept, timeout=timeout)
        except FileNotFoundError:
            return CheckResult(ok=False, detail="the container is gone")
        except CommandFailed as error:
            late = error.status is None
            detail = f"{argv[0]} did not end within {timeout_ms} ms" if late else error.message
            return CheckResult(ok=False, detail=detail)
        finally:
            process_file.unlink(missing_ok=True)
        said = (done.stdout + done.stderr).decode(errors="replace").strip()[-_DETAIL:]
        detail = f"{argv[0]} ended with status {done.status}" + (f": {said}" if said else "")
        return CheckResult(ok=done.status == 0, detail=detail)

    def watch(self, instance: str) -> int:
        """Return a descriptor that becomes readable when conmon ends, -1 when it has ended. The caller closes it."""
        conmon = self._conmon_of(instance)
        return -1 if conmon is None else processes.open_pidfd(conmon)

    def rotate_logs(self, instance: str) -> int:
        """Keep what conmon has replaced, drop what is over the share. Returns bytes now kept in all files.

        To be called often enough: a flood fills a file (a fifth of the share) in half a second."""
        plan = self._plan(instance)
        share = logs.share_of(log_bytes=plan.get("log_bytes", 1 << 25), log_files=plan.get("log_files", 4))
        with self._log_lock:
            return logs.rotate(self._folders.logs / instance, share=share)

    def read_logs(self, instance: str, cursor: str, limit: int) -> logs.LogPage:
        """Return at most `limit` lines from `cursor` on ("" = the oldest kept), also of a deleted container."""
        with self._log_lock:
            return logs.read_page(self._folders.logs / instance, cursor=cursor, limit=limit)

    def tail_cursor(self, instance: str, lines: int) -> str:
        """Return the cursor from which about `lines` lines are left."""
        with self._log_lock:
            return logs.tail_cursor(self._folders.logs / instance, lines=lines)

    def log_written(self, instance: str) -> int:
        """Return how many bytes conmon has written in its life: what a flood is seen by. 0 when it has ended."""
        conmon = self._conmon_of(instance)
        if conmon is None:
            return 0
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{conmon.pid}/io").read_text(encoding="ascii").splitlines():
                if line.startswith("wchar:"):
                    return int(line.split()[1])
        return 0

    def strain(self, instance: str) -> Strain:
        """Say how near a container is to its bounds; nothing of one that does not run."""
        found = self.observe(instance)
        return measure_strain(self._cgroups, instance, found.pid) if found.status is Status.RUNNING else Strain()

    def delete_logs(self, instance: str) -> None:
        """Remove the logs of a deleted container."""
        _remove_folder(self._folders.logs / instance)

    def _make_folders(self, plan: ContainerPlan, bundle: Path) -> None:
        folders = (bundle, bundle / "etc", bundle / "files", bundle / "rootfs")
        for folder in (*folders, *([bundle / FOLDER] if plan.secrets else [])):
            folder.mkdir()
            folder.chmod(0o711)
        live_files.lay_out(bundle, plan.live)
        for folder in (self._folders.logs / plan.instance, self._folders.run / "persist" / plan.instance):
            folder.mkdir(exist_ok=True)

    def _write_bundle(self, plan: ContainerPlan, bundle: Path) -> None:
        for name, data in plan.etc_files.items():
            write_atomic(bundle / "etc" / name, data, mode=0o644, durable=False)
        for number, one in enumerate(plan.files):
            path = bundle / "files" / str(number)
            write_atomic(path, one.data, mode=one.mode, durable=False)
            os.chown(path, one.owner, one.owner)
            path.chmod(one.mode)
        config = _fit_rlimits(json.loads(plan.config))
        kept = {"uid_base": plan.uid_base, "user": plan.user, "log_bytes": plan.log_bytes, "log_files": plan.log_files}
        write_atomic(bundle / _PLAN, json.dumps(kept).encode(), mode=0o600, durable=False)
        write_atomic(bundle / "config.json", json.dumps(config).encode(), mode=0o600, durable=False)

    def _launch(self, plan: ContainerPlan, bundle: Path) -> None:
        run, name = self._folders.run, plan.instance
        share = logs.share_of(log_bytes=plan.log_bytes, log_files=plan.log_files)
        runtime = (f"--root={run / 'crun'}", "--cgroup-manager=cgroupfs")
        argv = (
            *(self._conmon, "--api-version", "1", "-c", name, "-u", name, "-n", name, "-b", str(bundle)),
            *("-r", self._crun, *(word for option in runtime for word in ("--runtime-arg", option))),
            *("-p", str(bundle / "ctr.pid"), "-P", str(bundle / "conmon.pid")),
            *("-l", f"k8s-file:{self._folders.logs / name / logs.NAME}", "--log-size-max", str(share.piece)),
            *("--exit-dir", str(run / "exits"), "--persist-dir", str(run / "persist" / name)),
            *("--full-attach", "--log-level", "error"),
        )
        order = Launch(
            argv=argv,
            runtime=self._crun,
            tree=str(plan.tree),
            root=self._folders.root(name),
            uid_base=plan.uid_base,
            cgroups=tuple(str(folder) for folder in self._cgroups.enter_conmon(name)),
            output=str(bundle / "conmon.log"),
            secret_root=str(bundle / FOLDER) if plan.secrets else "",
            links=live_files.links(bundle, plan.live),
        )
        write_bundle: Callable[[], None] = partial(self._write_bundle, plan, bundle)
        if not plan.secrets:
            launch(self._launcher, order, write_bundle=write_bundle, timeout=_SLOW)
            return
        with memory_files(plan.secrets, owner=plan.uid_base + plan.user, env=self._with_env(plan)) as (packed, values):
            if plan.secret_env:
                write_bundle()  # before: a file that is replaced later would lose what covers it
                write_bundle = _nothing
                order = replace(order, covered=(str(bundle / FOLDER / CONFIG), str(bundle / "config.json")))
            order = replace(order, secrets=packed)
            launch(self._launcher, order, write_bundle=write_bundle, timeout=_SLOW, values=values)

    def _with_env(self, plan: ContainerPlan) -> bytes:
        """Return the config with the variables that no file on the disk holds, b"" where there are none."""
        return render_with_env(_fit_rlimits(json.loads(plan.config)), plan.secret_env) if plan.secret_env else b""

    def give_secrets(self, instance: str, secrets: tuple[SecretFile, ...]) -> tuple[str, ...]:
        """Replace files in memory, seen by the container at once; return the places whose bytes changed."""
        conmon, kept = self._conmon_of(instance), self._plan(instance)
        folder = self._folders.bundle(instance) / FOLDER
        if conmon is None or not folder.is_dir():
            raise Failed(f"cannot give {instance} secrets: it was made without, or it is gone")
        with memory_files(secrets, owner=kept["uid_base"] + kept["user"]) as (packed, values):
            return give(self._launcher, conmon=conmon.pid, folder=folder, files=packed, values=values)

    def live_paths(self, instance: str) -> tuple[str, ...]:
        """As promised by the contract."""
        return live_files.paths(self._folders.bundle(instance))

    def give_files(self, instance: str, live: Mapping[str, PlacedFile]) -> tuple[str, ...]:
        """As promised by the contract. Two folders and a link that is replaced; the container need not run."""
        return live_files.exchange(self._folders.bundle(instance), live)

    def _let_go(self, instance: str, found: Observed) -> None:
        """Start by the FIFO that crun's init waits at (0.05 ms instead of 5 for `crun start`)."""
        fifo = self._fifo(instance)
        if not (self._fast_start and _is_fifo(fifo)):
            self._run_crun("start", instance)
            return
        before = _program_of(found.pid)
        descriptor = _open_fifo(fifo, instance)
        try:
            fifo.unlink()
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)
        if not self._fast_start_proven:
            self._prove_fast_start(instance, found, before)

    def _prove_fast_start(self, instance: str, found: Observed, before: str) -> None:
        """The FIFO is crun's own affair: see once that its init did go on, else use `crun start` from now on."""
        deadline = time.monotonic() + 2.0
        while _program_of(found.pid) == before:
            if time.monotonic() > deadline:
                self._fast_start = False
                self.signal(instance, "KILL")
                raise Failed(f"cannot start {instance}: this crun does not start by its FIFO", hint="try again")
            time.sleep(0.0005)
        self._fast_start_proven = True

    def _run_crun(self, *words: str, accept: tuple[int, ...] = (0,), timeout: float = _SLOW) -> Result:
        root = f"--root={self._folders.run / 'crun'}"
        argv = (self._crun, root, "--cgroup-manager=cgroupfs", *words)
        return run_beside(self._launcher, Command(argv=argv, accept=accept, timeout=timeout))

    def _status_file(self, instance: str) -> dict[str, Any] | None:
        path = self._folders.run / "crun" / instance / "status"
        try:
            value: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):  # crun writes it whole only once create is done
            return None
        return value

    def _fifo(self, instance: str) -> Path:
        return self._folders.run / "crun" / instance / "exec.fifo"

    def _plan(self, instance: str) -> dict[str, int]:
        try:
            value: dict[str, int] = json.loads((self._folders.bundle(instance) / _PLAN).read_bytes())
        except (OSError, ValueError):
            return {}
        return value

    def _conmon_of(self, instance: str) -> ProcessId | None:
        """Return the live conmon of a container: by its pid file, and its command line against a pid come back."""
        bundle = self._folders.bundle(instance)
        try:
            process = processes.identify(int((bundle / "conmon.pid").read_text(encoding="ascii")))
            if process is None:
                return None
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return process if os.fsencode(bundle) in words else None

    def _end_conmon(self, conmon: ProcessId) -> None:
        if not processes.wait_end(conmon, seconds=1.0):
            processes.send_signal(conmon, signals.SIGKILL)
            processes.wait_end(conmon, seconds=2.0)

    def _exit_code(self, instance: str) -> int | None:
        for path in (self._folders.run / "exits" / instance, self._folders.run / "persist" / instance / "exit"):
            with contextlib.suppress(OSError, ValueError):
                return int(path.read_text(encoding="ascii"))
        return None

    def _saw_oom(self, instance: str) -> bool:
        mark = self._folders.run / "persist" / instance / "oom"
        return mark.exists() or self._cgroups.oom_kills(instance) > 0


def _nothing() -> None:
    pass


def _fit_rlimits(config: dict[str, Any]) -> dict[str, Any]:
    """Lower what this process may not raise: without CAP_SYS_RESOURCE a hard limit only goes down."""
    for limit in config["process"].get("rlimits", ()):
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], hard)
            limit["soft"] = min(limit["soft"], hard)
    return config


def _pin_oom_score(pid: int, score: int) -> None:
    """Write the score once more, as root of the host: the kernel takes that for the least the container may give
    itself. What it inherited is conmon's -1000, with which it could not be killed for want of memory."""
    with contextlib.suppress(OSError):  # it has ended
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(score), encoding="ascii")


def _open_fifo(fifo: Path, instance: str) -> int:
    deadline = time.monotonic() + 5.0
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            # ENXIO: crun's init has not yet come to its end of the FIFO
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise Failed(f"cannot start {instance}: {error.strerror}") from error
        time.sleep(0.001)


def _is_fifo(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.lstat().st_mode)
    except OSError:
        return False


def _program_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def _remove_folder(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (path / "rootfs").rmdir()  # a mount point elsewhere: never walk into it
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
