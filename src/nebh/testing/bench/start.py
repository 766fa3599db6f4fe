"""From the decision to the first instruction of PID 1: through our driver, by crun alone, by conmon and crun with
nothing of ours, by `docker run`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nebh.drivers.containers.base import ContainerPlan
from nebh.host import namespaces
from nebh.host.launcher import UID_RANGE
from nebh.host.run import Command, run, start
from nebh.host.worker import Worker
from nebh.model.errors import NotFound
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, scratch
from nebh.testing.bench.stamp import program, read_stamp
from nebh.testing.bench.status import total_calls
from nebh.testing.container_rig import UID_BASE, ContainerRig
from nebh.testing.docker import Docker

NAME = "start"
TITLE = "Start of a container"
ANY = tuple(range(256))
CLONE_NEWNS = 0x20000


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    folder = scratch("s")
    folder.mkdir()
    rig = ContainerRig(folder)
    binary = rig.tree / "stamp"
    binary.write_bytes(program())
    binary.chmod(0o755)
    peer = _Crun(rig, folder)
    try:
        with contextlib.ExitStack() as stack:
            ways: dict[str, Callable[[int], float]] = {
                "nebh": partial(_ours, rig),
                "first": partial(_first, rig),
                "crun": peer.start,
                "conmon": peer.start_with_conmon,
            }
            try:
                docker = stack.enter_context(Docker(scratch("d")))
                docker.add_image("stamp", rig.tree, 'CMD ["/stamp"]')
                record.facts["docker"] = f"{docker.version()} run -d --network none"
                ways["docker"] = partial(_docker, docker)
            except NotFound as error:
                record.skipped["docker run"] = str(error)
            for number in Rounds(settings, usual=50, quick=4):
                order = list(ways)
                random.Random(number).shuffle(order)
                took = {name: ways[name](number) for name in order}
                record.add("rounds", round=number, pressure=machine.pressure(), order=" ".join(order), **took)
            _companions(rig, record)
    finally:
        rig.close()
        peer.close()
        run(Command(argv=("rm", "-rf", str(folder)), accept=ANY))
    _figures(record)


def _ours(rig: ContainerRig, number: int) -> float:
    """Create and start as a transaction does; return ms until the first instruction."""
    return _create_and_start(rig, rig.plan(f"web-{number}", "/stamp"))


def _first(rig: ContainerRig, number: int) -> float:
    """The same as the first container of a service, for whose ids no user namespace has been made yet."""
    return _create_and_start(rig, rig.plan(f"new-{number}", "/stamp", uid_base=UID_BASE + UID_RANGE * (number + 1)))


def _create_and_start(rig: ContainerRig, plan: ContainerPlan) -> float:
    begin = time.monotonic_ns()
    rig.driver.create(plan)
    found = rig.driver.start(plan.instance)
    took = (read_stamp(found.pid) - begin) / 1e6
    rig.driver.delete(plan.instance)
    return took


def _docker(docker: Docker, number: int) -> float:
    name = f"s{number}"
    begin = time.monotonic_ns()
    docker.docker("run", "-d", "--network", "none", "--name", name, "stamp")
    pid = int(docker.docker("inspect", "--format", "{{.State.Pid}}", name).text)
    took = (read_stamp(pid) - begin) / 1e6
    docker.docker("rm", "-f", name)
    return took


class _Crun:
    """crun create and crun start of the same configuration, called one after the other by a small process that sees
    the machine as our launcher does; or conmon, which calls crun create, and then crun start."""

    def __init__(self, rig: ContainerRig, folder: Path) -> None:
        self._rig = rig
        self._folder = folder
        self._head = (shutil.which("crun") or "crun", f"--root={folder / 'crun'}", "--cgroup-manager=cgroupfs")
        mounts = Path(f"/proc/{rig.launcher.pid}/ns/mnt")

        def enter() -> None:
            with mounts.open("rb") as space:
                namespaces.setns(space.fileno(), CLONE_NEWNS)

        self._worker = Worker.fork("peer", {"crun": _run_all, "conmon": _run_conmon}, setup=enter)

    def start(self, number: int) -> float:
        """Return ms until the first instruction."""
        name = f"raw-{number}"
        bundle = self._bundle(name)
        pid = bundle / "pid"
        create = (*self._head, "create", "--bundle", str(bundle), "--pid-file", str(pid), name)
        begin, _ = self._worker.call("crun", {"commands": [create, (*self._head, "start", name)]})
        return self._judge(name, begin, int(pid.read_text()))

    def start_with_conmon(self, number: int) -> float:
        """Return ms until the first instruction."""
        name = f"mon-{number}"
        bundle = self._bundle(name)
        runtime = (word for option in self._head[1:] for word in ("--runtime-arg", option))
        argv = (
            *(shutil.which("conmon") or "conmon", "--api-version", "1", "-c", name, "-u", name, "-n", name),
            *("-b", str(bundle), "-r", self._head[0], *runtime, "--full-attach", "--log-level", "error"),
            *("-p", str(bundle / "pid"), "-P", str(bundle / "conmon.pid"), "-l", f"k8s-file:{bundle / 'log'}"),
            *("--exit-dir", str(bundle), "--persist-dir", str(bundle)),
        )
        (begin, pid), _ = self._worker.call("conmon", {"conmon": argv, "start": (*self._head, "start", name)})
        return self._judge(name, begin, pid)

    def _bundle(self, name: str) -> Path:
        config = json.loads(self._rig.plan(name, "/stamp").config)
        config["root"]["path"] = str(self._rig.tree)
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/etc/")]
        bundle = self._folder / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def _judge(self, name: str, begin: int, pid: int) -> float:
        took = (read_stamp(pid) - begin) / 1e6
        self._worker.call("crun", {"commands": [(*self._head, "delete", "--force", name)]})
        return took

    def close(self) -> None:
        """End the small process."""
        self._worker.close()


def _run_all(args: dict[str, Any], _fds: tuple[int, ...]) -> int:
    """Run commands one after the other; return the ns when the first began."""
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    errors = os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, nothing, 0), (os.POSIX_SPAWN_DUP2, nothing, 1), (os.POSIX_SPAWN_DUP2, errors, 2)]
    begin = time.monotonic_ns()
    for argv in args["commands"]:
        pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions)
        if os.waitpid(pid, 0)[1]:
            raise OSError(os.pread(errors, 1000, 0).decode(errors="replace"))
    os.close(errors)
    os.close(nothing)
    return begin


def _run_conmon(args: dict[str, Any], _fds: tuple[int, ...]) -> tuple[int, int]:
    """Start conmon, wait until it says the container's pid, start the container; return the ns of the begin, the pid."""
    begin = time.monotonic_ns()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_inheritable(writing, True)
    argv = args["conmon"]
    child = os.posix_spawn(argv[0], argv, {"_OCI_SYNCPIPE": str(writing)}, setsid=True)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        answer = json.loads(said.readline())
    _run_all({"commands": [args["start"]]}, ())
    os.waitpid(child, 0)
    return begin, int(answer["data"])


def _companions(rig: ContainerRig, record: Record) -> None:
    """Count the system calls of the launcher and everything it starts, for one container."""
    out = rig.folder / "strace"
    argv = ("strace", "-f", "-c", "-o", str(out), "-p", str(rig.launcher.pid))
    try:
        tracer = start(Command(argv=argv), stderr=-3)
        time.sleep(1)
        name = "web-traced"
        rig.driver.create(rig.plan(name, "/stamp"))
        read_stamp(rig.driver.start(name).pid)
        rig.driver.delete(name)
        time.sleep(0.5)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)
        record.add("exact", syscalls=total_calls(out))
    except (OSError, StopIteration, ValueError) as error:
        record.skipped["system calls of a start"] = f"strace cannot follow here: {error}"


def _figures(record: Record) -> None:
    for name, what in {
        "nebh": "our driver: create + start",
        "first": "our driver: the first container of a service",
        "crun": "crun create + crun start alone",
        "conmon": "conmon (crun create) + crun start, nothing else",
        "docker": "docker run -d",
    }.items():
        record.figure(name, f"decision -> first instruction, {what}", table="rounds", columns=(name,))
        record.figure(
            f"{name}_p10", f"the same, 10th percentile ({name})", table="rounds", columns=(name,), statistic="p10"
        )
    for row in record.tables.get("rounds", []):
        row["more"] = row["nebh"] - row["crun"]
        row["conmon_more"] = row["conmon"] - row["crun"]
        row["ours_more"] = row["nebh"] - row["conmon"]
    record.figure("more", "our driver - crun alone, the same round", table="rounds", columns=("more",), limit=2.0)
    record.figure(
        "conmon_more", "of that conmon: conmon - crun alone, the same round", table="rounds", columns=("conmon_more",)
    )
    record.figure(
        "ours_more", "of that ours: our driver - conmon, the same round", table="rounds", columns=("ours_more",)
    )
    for other in ("crun", "docker"):
        record.figure(
            f"to_{other}", f"our driver / {other}", unit="x", statistic="ratio", table="rounds", columns=("nebh", other)
        )
    record.figure(
        "syscalls", "system calls of create, start and delete together", unit="", table="exact", columns=("syscalls",)
    )
