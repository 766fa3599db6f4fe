"""Starts real executors and stand-in agents quickly: one process imports everything once, then forks for each.

`python -m nebh.testing.forks` reads a JSON line per command and answers with one:
{"cmd": "executor" | "agent", "netns", "state", "run", "served", "log", "env": {}} -> {"pid": n}
    "disabled": [rule ids], "clock": seconds   for an executor without these rules, or with a wrong clock
{"cmd": "wait", "pid": n, "timeout": seconds} -> {"status": n | null}   as `os.waitstatus_to_exitcode` says; -9 = SIGKILL
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nebh.agent.door import Door
from nebh.client.frame_channel import serve_frames
from nebh.executor.main import serve
from nebh.host import namespaces
from nebh.host.clock import SystemClock
from nebh.host.layout import Layout
from nebh.model.errors import NotFound
from nebh.planning import accept

Item = tuple[str, int]
Take = Callable[[Item, Iterator[bytes]], None]


class FolderSources:
    """What an agent would fetch, from a folder: `metadata/`, `targets/`, `objects/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def metadata(self, source: str, name: str, limit: int, *, signed: tuple[str, ...] = ()) -> bytes | None:  # noqa: ARG002 - one folder for all
        """Return a file's bytes, None when there is none."""
        try:
            return (self._folder / name).read_bytes()[: limit + 1]
        except OSError:
            return None

    def objects(self, items: tuple[Item, ...], take: Take, *, signed: tuple[str, ...] = ()) -> None:  # noqa: ARG002
        """Hand over objects, in order. Raises NotFound."""
        for digest, size in items:
            path = self._folder / "objects" / digest
            if not path.exists():
                raise NotFound(f"cannot find object {digest[:12]}")
            take((digest, size), iter((path.read_bytes(),)))


def run_agent(wish: dict[str, Any]) -> int:
    """Answer the executor's questions until killed."""
    layout = Layout(state=Path(wish["state"]), run=Path(wish["run"]))
    layout.agent_socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    door = Door(FolderSources(Path(wish["served"])))
    serve_frames(layout.agent_socket, mode=0o666, handler=door.handle, allowed_uids=frozenset({0}))
    while True:
        signal.pause()


def run_executor(wish: dict[str, Any]) -> int:
    """Be `nebh-executor serve`, perhaps without some rules or with a wrong clock: nothing but a test's own process has
    a way to either."""
    rules, ahead = frozenset(wish.get("disabled", ())), int(wish.get("clock", 0)) * 1000
    if rules:
        for name in ("accept_metadata", "accept_assignment", "accept_image", "accept_order", "accept_secret"):
            setattr(accept, name, functools.partial(getattr(accept, name), disabled=rules))
    if ahead:
        right = SystemClock.now_ms
        setattr(SystemClock, "now_ms", lambda clock: right(clock) + ahead)  # noqa: B010 - it is what it is for
    return serve(Layout(state=Path(wish["state"]), run=Path(wish["run"])))


_PROGRAMS = {"executor": run_executor, "agent": run_agent}


def fork(wish: dict[str, Any]) -> int:
    """Start one of the two; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        log = os.open(wish["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open("/dev/null", os.O_RDWR)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(wish.get("env", {}))
        with open(f"/run/netns/{wish['netns']}", "rb") as space:  # noqa: PTH123 - a namespace is no file to read
            namespaces.setns(space.fileno(), namespaces.CLONE_NEWNET)
        status = _PROGRAMS[wish["cmd"]](wish)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def wait(pid: int, timeout: float) -> int | None:
    """Return how a child ended, None when it did not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.01)


def main() -> None:
    """Answer commands until standard input ends; then nothing it started lives on, however its parent ended."""
    forked: set[int] = set()
    for line in sys.stdin:
        wish = json.loads(line)
        if wish["cmd"] == "wait":
            answer: dict[str, Any] = {"status": wait(wish["pid"], wish["timeout"])}
            if answer["status"] is not None:
                forked.discard(wish["pid"])
        else:
            answer = {"pid": fork(wish)}
            forked.add(answer["pid"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in forked:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
