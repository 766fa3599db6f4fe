"""Containers that exist in this object only (contract: base.ContainerDriver), and do as they are told.

The "program" is read from the config's arguments: `/bin/sh -c TEXT`, where TEXT is made of `echo WORDS`, `exit N`,
`append PATH WORDS` (a line to a file in a volume) and `sleep N` (runs until killed), joined by `;`. Anything else runs until killed; `/missing...` cannot be created.
"""

from __future__ import annotations

import json
import os
import signal as signals
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nebh.drivers.containers.base import ContainerPlan, PlacedFile
from nebh.drivers.containers.logs import LogLine, LogPage
from nebh.model.errors import Failed, NebhError
from nebh.model.instance import CheckResult, Observed, Status, Strain
from nebh.model.secret import SecretFile

_FIRST_PID = 1000


@dataclass(kw_only=True)
class _Container:
    plan: ContainerPlan
    pid: int
    status: Status = Status.CREATED
    exit_code: int | None = None
    oom: bool = False
    conmon_alive: bool = True
    bells: list[int] = field(default_factory=list)
    secrets: dict[str, bytes] = field(default_factory=dict)
    live: dict[str, PlacedFile] = field(default_factory=dict)


class FakeContainers:
    """See above. Orders from a test: `fail_next`, `hang_next`, `exit`, `say`, `end_conmon`; `calls` is what happened."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.check_ok = True
        self.frozen: set[str] = set()
        self.strains: dict[str, Strain] = {}
        self._containers: dict[str, _Container] = {}
        self._logs: dict[str, list[LogLine]] = {}
        self._errors: dict[str, list[NebhError]] = {}
        self._gates: dict[str, list[threading.Event]] = {}
        self._pids = _FIRST_PID
        self._lock = threading.RLock()

    def fail_next(self, verb: str, error: NebhError) -> None:
        """Have the next call of `verb` (`create`, `start`...) raise `error`."""
        self._errors.setdefault(verb, []).append(error)

    def hang_next(self, verb: str) -> threading.Event:
        """Have the next call of `verb` wait until the returned event is set."""
        gate = threading.Event()
        self._gates.setdefault(verb, []).append(gate)
        return gate

    def exit(self, instance: str, code: int, *, oom: bool = False) -> None:
        """End a container's program."""
        with self._lock:
            one = self._containers[instance]
            one.status, one.oom = Status.STOPPED, oom
            one.exit_code = code if one.conmon_alive else None
            self._ring(one)

    def end_conmon(self, instance: str) -> None:
        """Kill its conmon: the container goes on, its exit code will never be known."""
        with self._lock:
            self._ring(self._containers[instance])

    def say(self, instance: str, text: str, *, stream: str = "stdout") -> None:
        """Have a container print a line."""
        lines = self._logs.setdefault(instance, [])
        lines.append(LogLine(time=f"2026-01-01T00:00:00.{len(lines):09d}+00:00", stream=stream, text=text))

    def create(self, plan: ContainerPlan) -> Observed:
        """As promised by the contract."""
        self._enter("create", plan.instance)
        with self._lock:
            self.delete(plan.instance)
            argv = json.loads(plan.config)["process"]["args"]
            if argv[0].startswith("/missing"):
                raise Failed(f"cannot create the container: executable file `{argv[0]}` not found")
            self._pids += 1
            held = {one.place: one.value for one in plan.secrets}
            self._containers[plan.instance] = _Container(plan=plan, pid=self._pids, secrets=held, live=dict(plan.live))
            self._logs.setdefault(plan.instance, [])
        return self.observe(plan.instance)

    def start(self, instance: str) -> Observed:
        """As promised by the contract."""
        self._enter("start", instance)
        with self._lock:
            one = self._containers.get(instance)
            if one is None:
                raise Failed(f"cannot start {instance}: it was never created, or it is gone")
            if one.status is Status.CREATED:
                one.status = Status.RUNNING
                self._run_program(instance, tuple(json.loads(one.plan.config)["process"]["args"]))
        return self.observe(instance)

    def observe(self, instance: str) -> Observed:
        """As promised by the contract."""
        with self._lock:
            one = self._containers.get(instance)
            if one is None:
                return Observed(instance=instance, status=Status.ABSENT)
            return Observed(
                instance=instance,
                status=one.status,
                pid=one.pid,
                started=one.pid,
                exit_code=one.exit_code,
                oom=one.oom,
                conmon_alive=one.conmon_alive,
            )

    def list(self) -> tuple[str, ...]:
        """As promised by the contract."""
        with self._lock:
            return tuple(sorted(self._containers))

    def signal(self, instance: str, name: str) -> None:
        """As promised by the contract. KILL ends the program with 137; it ignores all others."""
        self._enter("signal", instance)
        number = signals.Signals[f"SIG{name}"]
        if number == signals.SIGKILL and self.observe(instance).status in (Status.CREATED, Status.RUNNING):
            self.exit(instance, 128 + number)

    def freeze(self, instance: str) -> None:
        """As promised by the contract: `frozen` tells."""
        self._enter("freeze", instance)
        self.frozen.add(instance)

    def thaw(self, instance: str) -> None:
        """As promised by the contract."""
        self._enter("thaw", instance)
        self.frozen.discard(instance)

    def delete(self, instance: str) -> None:
        """As promised by the contract."""
        self._enter("delete", instance)
        with self._lock:
            one = self._containers.pop(instance, None)
            self.frozen.discard(instance)
            if one is not None:
                self._ring(one)

    def give_secrets(self, instance: str, secrets: tuple[SecretFile, ...]) -> tuple[str, ...]:
        """As promised by the contract."""
        self._enter("give_secrets", instance)
        with self._lock:
            one = self._containers.get(instance)
            if one is None or not one.secrets:
                raise Failed(f"cannot give {instance} secrets: it was made without, or it is gone")
            changed = tuple(file.place for file in secrets if one.secrets.get(file.place) != file.value)
            one.secrets |= {file.place: file.value for file in secrets}
            return changed

    def secrets_of(self, instance: str) -> dict[str, bytes]:
        """Return the files that a container sees, by place."""
        return dict(self._containers[instance].secrets)

    def live_paths(self, instance: str) -> tuple[str, ...]:
        """As promised by the contract."""
        with self._lock:
            one = self._containers.get(instance)
            return () if one is None else tuple(sorted(one.live))

    def give_files(self, instance: str, live: Mapping[str, PlacedFile]) -> tuple[str, ...]:
        """As promised by the contract."""
        self._enter("give_files", instance)
        with self._lock:
            if not live or self.live_paths(instance) != tuple(sorted(live)):
                raise Failed(f"cannot give {instance} its files: it was made with others, or it is gone")
            one = self._containers[instance]
            changed = tuple(path for path in sorted(live) if one.live[path].data != live[path].data)
            one.live = dict(live)
            return changed

    def files_of(self, instance: str) -> dict[str, bytes]:
        """Return the live files that a container sees, by path."""
        return {path: one.data for path, one in self._containers[instance].live.items()}

    def check(self, instance: str, argv: tuple[str, ...], timeout_ms: int) -> CheckResult:
        """Pass as `check_ok` says; `/bin/sh -c "exit N"` ends with N, `sleep` takes longer than `timeout_ms`."""
        self._enter("check", instance)
        if self.observe(instance).status is not Status.RUNNING:
            return CheckResult(ok=False, detail="the container is gone")
        words = argv[-1].split()
        if "sleep" in words:
            return CheckResult(ok=False, detail=f"{argv[0]} did not end within {timeout_ms} ms")
        status = int(words[-1]) if words[:1] == ["exit"] else int(not self.check_ok)
        return CheckResult(ok=status == 0, detail=f"{argv[0]} ended with status {status}")

    def watch(self, instance: str) -> int:
        """As promised by the contract."""
        with self._lock:
            one = self._containers.get(instance)
            if one is None or not one.conmon_alive:
                return -1
            bell = os.eventfd(0)
            one.bells.append(os.dup(bell))
            return bell

    def rotate_logs(self, instance: str) -> int:
        """Return the bytes kept; nothing is ever rotated."""
        return self.log_written(instance)

    def read_logs(self, instance: str, cursor: str, limit: int) -> LogPage:
        """As promised by the contract."""
        start = int(cursor or 0)
        lines = tuple(self._logs.get(instance, [])[start : start + limit])
        return LogPage(lines=lines, cursor=str(start + len(lines)))

    def tail_cursor(self, instance: str, lines: int) -> str:
        """As promised by the contract."""
        return str(max(0, len(self._logs.get(instance, [])) - lines))

    def log_written(self, instance: str) -> int:
        """As promised by the contract."""
        return sum(len(line.text) + 1 for line in self._logs.get(instance, []))

    def strain(self, instance: str) -> Strain:
        """As promised by the contract: what a test has put into `strains`."""
        return self.strains.get(instance, Strain())

    def delete_logs(self, instance: str) -> None:
        """As promised by the contract."""
        self._logs.pop(instance, None)

    def _run_program(self, instance: str, argv: tuple[str, ...]) -> None:
        if argv[:2] != ("/bin/sh", "-c"):
            return
        for part in argv[2].split(";"):
            word, _, rest = part.strip().partition(" ")
            if word == "echo":
                self.say(instance, rest)
            elif word == "append":
                self._append(instance, rest)
            elif word == "exit":
                self.exit(instance, int(rest))
                return
            elif word == "sleep":
                return
        self.exit(instance, 0)

    def _append(self, instance: str, text: str) -> None:
        path, _, line = text.partition(" ")
        for mount in json.loads(self._containers[instance].plan.config)["mounts"]:
            if path.startswith(mount["destination"] + "/") and "rw" in mount["options"]:
                with Path(mount["source"], path.removeprefix(mount["destination"] + "/")).open("a") as file:
                    file.write(line + "\n")

    def _ring(self, one: _Container) -> None:
        one.conmon_alive = False
        while one.bells:
            bell = one.bells.pop()
            os.eventfd_write(bell, 1)
            os.close(bell)

    def _enter(self, verb: str, instance: str) -> None:
        self.calls.append((verb, instance))
        if self._gates.get(verb):
            self._gates[verb].pop(0).wait()
        if self._errors.get(verb):
            raise self._errors[verb].pop(0)
