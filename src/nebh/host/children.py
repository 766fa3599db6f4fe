"""Programs run and watched in the foreground, where there is no service manager."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nebh.host.namespaces import die_with_parent
from nebh.host.run import environment
from nebh.host.sandbox import Sandbox
from nebh.model.errors import Failed

_CALM = 30.0


@dataclass(frozen=True, kw_only=True)
class Child:
    """A program to keep running, as root without a sandbox. output: file its stdout and stderr are appended to."""

    name: str
    argv: tuple[str, ...]
    output: Path
    env: dict[str, str] = field(default_factory=dict)
    sandbox: Sandbox | None = None


class Children:
    """Starts children, starts them again when they end, ends them in reverse order. For a single-threaded process."""

    def __init__(self, children: tuple[Child, ...], *, say: Callable[[str], None]) -> None:
        self._children = children
        self._say = say
        self._pids: dict[int, Child] = {}
        self._quick: dict[str, tuple[int, float]] = {}
        self._due: dict[str, float] = {}
        self._ending = False

    def start(self) -> None:
        """Start all."""
        for child in self._children:
            self._start(child)

    def _start(self, child: Child) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(child, parent)
        self._pids[pid] = child

    def watch(self, seconds: float) -> None:
        """Reap and restart for `seconds`."""
        end = time.monotonic() + seconds
        while True:
            self._reap()
            now = time.monotonic()
            for child in self._children:
                if self._due.get(child.name, now + 1) <= now and not self._ending:
                    del self._due[child.name]
                    self._start(child)
            if now >= end:
                return
            time.sleep(min(0.1, end - now))

    def _reap(self) -> None:
        while self._pids:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                child = self._pids.pop(pid, None)
                if child is not None and not self._ending:
                    self._again(child, status)
                continue
            return

    def _again(self, child: Child, status: int) -> None:
        now = time.monotonic()
        count, last = self._quick.get(child.name, (0, 0.0))
        count = 0 if now - last > _CALM else count
        delay = 0.0 if count == 0 else min(0.5 * 2 ** (count - 1), 15.0)
        self._quick[child.name] = (count + 1, now)
        self._due[child.name] = now + delay
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"status {code}"
        self._say(f"{child.name} ended with {how}; starting it again (its output: {child.output})")

    def pid_of(self, name: str) -> int:
        """Return a child's pid, 0 while it does not run."""
        return next((pid for pid, child in self._pids.items() if child.name == name), 0)

    def stop(self, *, grace: float = 10.0) -> None:
        """End all, the last first."""
        self._ending = True
        for child in reversed(self._children):
            pid = self.pid_of(child.name)
            if pid:
                os.kill(pid, signal.SIGTERM)
                self._await(pid, grace)

    def _await(self, pid: int, grace: float) -> None:
        end = time.monotonic() + grace
        while pid in self._pids and time.monotonic() < end:
            self._reap()
            time.sleep(0.02)
        if pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._pids.pop(pid, None)


def _become(child: Child, parent: int) -> None:
    """In the fork: become the program, or say why not."""
    try:
        output = os.open(child.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        if child.sandbox is not None:
            child.sandbox.enter()
        die_with_parent(parent=parent)
        os.execve(child.argv[0], child.argv, environment(child.env))  # noqa: S606 - no shell is the point
    except BaseException as error:
        os.write(2, f"cannot start {child.name}: {error}\n".encode())
    os._exit(127)


def run_sandboxed(argv: tuple[str, ...], *, env: dict[str, str], sandbox: Sandbox) -> bytes:
    """Run a program to its end in a sandbox, from a single-threaded process; return its standard output. Its standard
    error is ours. Raises Failed."""
    parent, (reading, writing) = os.getpid(), os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(writing, 1)
            sandbox.enter()
            die_with_parent(parent=parent)
            os.execve(argv[0], argv, environment(env))  # noqa: S606 - no shell is the point
        except BaseException as error:
            os.write(2, f"cannot start {argv[0]}: {error}\n".encode())
        os._exit(127)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise Failed(f"cannot run {' '.join(argv)}: it ended with status {status}")
    return answer
