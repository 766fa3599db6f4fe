"""A whole cloud for tests and the demo: `nebh up` in a network namespace of its own, real programs, real containers.

Everything lies below one short folder; control groups below one name; `destroy` leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from nebh.host import processes
from nebh.host.channels import connect_unix
from nebh.host.layout import Layout
from nebh.host.run import Command, Result, Started, TimeoutExpired, run, start
from nebh.model.errors import Unreachable

PATIENCE = 240.0
CGROUPS = Path("/sys/fs/cgroup")
PROGRAMS = ("controller", "agent", "executor")


class Cloud:
    """One cloud on this machine, apart from all others. Needs root."""

    def __init__(self, folder: Path, *, http_port: int = 8080, node: str = "test", left_as: str = "") -> None:
        """Use `folder` (short: sockets lie below it; on a disk: not a tmpfs), which must not exist or be empty.
        left_as: the `name` of a cloud there that an earlier process left running, to destroy it."""
        self.folder = folder
        self.node = node
        self.name = left_as or f"nt-{secrets.token_hex(3)}"
        self.layout = Layout(state=folder / "s", run=folder / "r")
        self.http_port = http_port
        self._up: Started | None = None
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.chmod(0o755)
        if not left_as:
            self._make_namespace()

    # the machine

    def _make_namespace(self) -> None:
        run(Command(argv=("ip", "netns", "add", self.name)))
        run(Command(argv=("ip", "-n", self.name, "link", "set", "lo", "up")))

    def inside(self, *argv: str) -> tuple[str, ...]:
        """Return `argv` so that it runs in the cloud's network (and sees this machine's /sys)."""
        return ("nsenter", f"--net=/run/netns/{self.name}", "--", *argv)

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command."""
        return {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), *filter(None, sys.path)])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.folder / "home"),
            "NEBH_CONFIG": str(self.folder / "config"),
            "NEBH_CACHE": str(self.folder / "cache"),
        }

    # programs

    def up(self, *, env: dict[str, str] | None = None, wait: bool = True) -> None:
        """Start `nebh up` (founding the cloud the first time). env: such as NEBH_FAULT, for the executor."""
        (self.folder / "home").mkdir(exist_ok=True)
        log = (self.folder / "up.log").open("ab")
        argv = (
            *self._python("nebh"),
            "up",
            "--foreground",
            "--state",
            str(self.layout.state),
            "--run",
            str(self.layout.run),
            "--name",
            self.node,
            "--http-port",
            str(self.http_port),
            "--https-port",
            "8443",
            "--cgroup-parent",
            self.name,
            "--words-file",
            str(self.folder / "words"),
        )
        with log:
            self._up = start(Command(argv=self.inside(*argv), env={**self.env, **(env or {})}), stdout=log, stderr=log)
        if wait:
            self.wait_until_ready()

    def _python(self, program: str) -> tuple[str, ...]:
        return (sys.executable, "-P", "-m", f"nebh.programs.{program}")

    def wait_until_ready(self, *, patience: float = PATIENCE) -> None:
        """Wait until the controller listens, and the node knows its own record and has its agent."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if self._up is not None and self._up.poll() is not None:
                break
            found = self.nebh_executor("status", "--json", accept=tuple(range(256)))
            if found.status == 0 and json.loads(found.stdout)["snapshot"] > 0 and self._all_there():
                return
            time.sleep(0.2)
        raise TimeoutError(f"the cloud did not come up:\n{self.say_logs()}")

    def _all_there(self) -> bool:
        if not self.pid_of("agent"):
            return False
        try:  # the name of a controller that died may still be there
            connect_unix(self.layout.controller_socket, timeout=5.0).close()
        except Unreachable:
            return False
        return True

    def say_logs(self) -> str:
        """Return the ends of all logs of ours."""
        parts = []
        for path in (self.folder / "up.log", *sorted(self.layout.state.glob("*.log"))):
            with contextlib.suppress(OSError):
                parts.append(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}")
        return "\n".join(parts)

    def pid_of(self, program: str) -> int:
        """Return the pid of controller, agent or executor, 0 when it does not run."""
        word = f"nebh.programs.{program}\0".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes()
                if word in line and str(self.layout.run).encode() in line and b"setpriv" not in line:
                    parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
                    if self._up is not None and self._is_ours(parent):
                        return int(path.parent.name)
        return 0

    def _is_ours(self, parent: int) -> bool:
        """The supervisor itself (nsenter execs into it) is the programs' parent; helpers have other parents."""
        return self._up is not None and parent == self._up.pid

    def kill(self, program: str) -> int:
        """kill -9 one of the three programs; return the pid it had."""
        pid = self.pid_of(program)
        if pid:
            os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, program: str, *, old: int, patience: float = PATIENCE) -> int:
        """Wait until the supervisor has started it again; return its pid."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            pid = self.pid_of(program)
            if pid not in (0, old):
                return pid
            time.sleep(0.05)
        raise TimeoutError(f"{program} did not come back:\n{self.say_logs()}")

    # commands

    def nebh(
        self,
        *words: str,
        accept: tuple[int, ...] = (0,),
        timeout: float = 400.0,
        stdin: bytes | None = None,
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run the command line in the cloud's network. env: over the usual one, such as another computer's folders."""
        found = self.command(*words)
        given = {**found.env, **(env or {})}
        return run(replace(found, env=given, accept=accept, timeout=timeout, stdin=stdin))

    def command(self, *words: str) -> Command:
        """Return the command line in the cloud's network, to be run or started."""
        return Command(argv=self.inside(*self._python("nebh"), *words), env=self.env)

    def nebh_json(self, *words: str, accept: tuple[int, ...] = (0,)) -> Any:
        """Run a command with --json and return what it printed."""
        return json.loads(self.nebh(*words, "--json", accept=accept).stdout)

    def nebh_executor(self, *words: str, accept: tuple[int, ...] = (0,)) -> Result:
        """Run a command of `nebh-executor` as root on the node."""
        places = ("--state", str(self.layout.state), "--run", str(self.layout.run))
        return run(Command(argv=self.inside(*self._python("executor"), *places, *words), env=self.env, accept=accept))

    def node_status(self) -> dict[str, Any]:
        """Return `nebh-executor status` as plain data: instances with role, status, pid and start time."""
        found: dict[str, Any] = json.loads(self.nebh_executor("status", "--json").stdout)
        return found

    def serving(self, service: str) -> list[dict[str, Any]]:
        """Return the instances of a service that get requests."""
        return [
            one for one in self.node_status()["instances"] if one["service"] == service and one["role"] == "serving"
        ]

    def get(self, path: str = "/", *, host: str, timeout: float = 5.0, method: str = "GET") -> tuple[int, str]:
        """Ask through the ingress; return (status, body); status 0 = no answer."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        argv = ("curl", "-s", "-X", method, "-m", str(timeout), "-w", "\n%{http_code}", "-H", f"Host: {host}", url)
        done = run(Command(argv=self.inside(*argv), accept=tuple(range(256))))
        body, _, status = done.text.rpartition("\n")
        return int(status or 0), body

    # ends

    def stop(self) -> None:
        """End `nebh up` as Ctrl-C does; containers run on."""
        if self._up is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._up.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutExpired):
                self._up.wait(30)
            self._end_supervisor()

    def _end_supervisor(self) -> None:
        if self._up is not None:
            if self._up.poll() is None:
                self._up.kill()
            self._up.wait(10)
            self._up = None

    def _cgroups(self) -> tuple[Path, ...]:
        """Return our folders: one in version 2 of control groups, one per controller in version 1."""
        return (*CGROUPS.glob(self.name), *CGROUPS.glob(f"*/{self.name}"))

    def _everything(self) -> Iterator[int]:
        """Yield every process of this cloud: by control group, and by the folder on its command line."""
        seen: set[int] = set()
        # os.walk, unlike Path.rglob, takes folders that vanish meanwhile for empty ones
        for path in (Path(path, "cgroup.procs") for top in self._cgroups() for path, _, _ in os.walk(top)):
            with contextlib.suppress(OSError):
                seen |= {int(word) for word in path.read_text().split()}
        needle = str(self.folder).encode() + b"/"
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if needle in path.read_bytes():
                    seen.add(int(path.parent.name))
        yield from seen - {os.getpid()}

    def processes(self) -> tuple[int, ...]:
        """Return every process of this cloud, containers' included."""
        return tuple(self._everything())

    def slay_all(self) -> None:
        """kill -9 of everything at once; links, rules and runtime state stay, as the kernel keeps them."""
        for _ in range(20):
            left = [pid for pid in self._everything() if _alive(pid)]
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._end_supervisor()

    def power_cut(self) -> None:
        """kill -9 of everything at once, and what a reboot takes with it: links, rules, sockets, runtime state."""
        self.slay_all()
        run(Command(argv=("ip", "netns", "del", self.name), accept=(0, 1)))
        shutil.rmtree(self.layout.run, ignore_errors=True)
        self._remove_cgroups()
        self._make_namespace()

    def _remove_cgroups(self) -> None:
        for top in self._cgroups():
            for path in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir()
            with contextlib.suppress(OSError):
                top.rmdir()

    def destroy(self) -> None:
        """Take everything away."""
        self.power_cut()
        run(Command(argv=("ip", "netns", "del", self.name), accept=(0, 1)))
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()


def _alive(pid: int) -> bool:
    found = processes.identify(pid)
    return found is not None and processes.is_alive(found)
