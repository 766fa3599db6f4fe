"""Processes by (pid, start time): a pid alone comes back, and a zombie still has one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """Names one process for ever. started: clock ticks since boot (field 22 of /proc/PID/stat)."""

    pid: int
    started: int


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the live process with that pid; None for none, or a zombie."""
    if pid <= 0:
        return None
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
    if fields[0] in "ZXx":
        return None
    return ProcessId(pid=pid, started=int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Tell whether this very process runs still (a zombie does not)."""
    return identify(process.pid) == process


def open_pidfd(process: ProcessId) -> int:
    """Return a pidfd of this very process, readable when it ends, or -1 when it has ended. The caller closes it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return -1
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return -1


def send_signal(process: ProcessId, number: int) -> bool:
    """Send a signal to this very process. Returns False when it has ended."""
    descriptor = open_pidfd(process)
    if descriptor < 0:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_end(process: ProcessId, *, seconds: float) -> bool:
    """Wait until the process ends; False when it runs still after `seconds`."""
    descriptor = open_pidfd(process)
    if descriptor < 0:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(0, int(seconds * 1000))))
    finally:
        os.close(descriptor)


def kill_children() -> None:
    """Kill and collect every child of this process, and those it inherits meanwhile as a subreaper."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for text in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
                os.kill(int(text), signal.SIGKILL)
            os.waitpid(-1, 0)
