"""From the decision to the first instruction of PID 1: through our driver, by crun alone, by `docker run`."""

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

from nebh.host import namespaces
from nebh.host.run import Command, run, start
from nebh.host.worker import Worker
from nebh.model.errors import NotFound
from nebh.testing.bench import machine
from nebh.testing.bench.docker import Docker
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, scratch
from nebh.testing.bench.stamp import program, read_stamp
from nebh.testing.bench.status import total_calls
from nebh.testing.container_rig import ContainerRig

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
            ways: dict[str, Callable[[int], float]] = {"nebh": partial(_ours, rig), "crun": peer.start}
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
    name = f"web-{number}"
    plan = rig.plan(name, "/stamp")
    begin = time.monotonic_ns()
    rig.driver.create(plan)
    found = rig.driver.start(name)
    took = (read_stamp(found.pid) - begin) / 1e6
    rig.driver.delete(name)
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
    the machine as our launcher does."""

    def __init__(self, rig: ContainerRig, folder: Path) -> None:
        self._rig = rig
        self._root = folder / "crun"
        self._bundle = folder / "bundle"
        self._bundle.mkdir()
        mounts = Path(f"/proc/{rig.launcher.pid}/ns/mnt")

        def enter() -> None:
            with mounts.open("rb") as space:
                namespaces.setns(space.fileno(), CLONE_NEWNS)

        self._worker = Worker.fork("peer", {"crun": _run_all}, setup=enter)

    def start(self, number: int) -> float:
        """Return ms until the first instruction."""
        name = f"raw-{number}"
        config = json.loads(self._rig.plan(name, "/stamp").config)
        config["root"]["path"] = str(self._rig.tree)
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/etc/")]
        (self._bundle / "config.json").write_text(json.dumps(config))
        pid = self._bundle / "pid"
        begin = self._crun(("create", "--bundle", str(self._bundle), "--pid-file", str(pid), name), ("start", name))
        took = (read_stamp(int(pid.read_text())) - begin) / 1e6
        self._crun(("delete", "--force", name))
        return took

    def _crun(self, *commands: tuple[str, ...]) -> int:
        """Run commands of crun; return the ns when the first began."""
        head = (shutil.which("crun") or "crun", "--root", str(self._root), "--cgroup-manager=cgroupfs")
        value, _ = self._worker.call("crun", {"commands": [[*head, *words] for words in commands]})
        return int(value)

    def close(self) -> None:
        """End the small process."""
        self._worker.close()


def _run_all(args: dict[str, Any], _fds: tuple[int, ...]) -> int:
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
        "crun": "crun create + crun start alone",
        "docker": "docker run -d",
    }.items():
        record.figure(name, f"decision -> first instruction, {what}", table="rounds", columns=(name,))
        record.figure(
            f"{name}_p10", f"the same, 10th percentile ({name})", table="rounds", columns=(name,), statistic="p10"
        )
    for row in record.tables.get("rounds", []):
        row["more"] = row["nebh"] - row["crun"]
    record.figure("more", "our driver - crun alone, the same round", table="rounds", columns=("more",), limit=2.0)
    for other in ("crun", "docker"):
        record.figure(
            f"to_{other}", f"our driver / {other}", unit="x", statistic="ratio", table="rounds", columns=("nebh", other)
        )
    record.figure(
        "syscalls", "system calls of create, start and delete together", unit="", table="exact", columns=("syscalls",)
    )
