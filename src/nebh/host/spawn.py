"""What every helper process can do: run a command to its end, spawn a detached program."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nebh.host import namespaces, processes
from nebh.host.run import Command, CommandFailed, Result, environment, run
from nebh.model.errors import Failed


@dataclass(frozen=True)
class Reply:
    """What a handler answers: a JSON value and descriptors, which are closed once they are sent."""

    result: Any
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Spawn:
    """A program to start detached: a session of its own, no parent, no PDEATHSIG.

    argv[0] is an absolute path. env is added to PATH and LANG. uid None = stay root with all capabilities; else only
    `capabilities` are kept (ambient, bounding). cgroups: folders whose cgroup.procs it enters. output: file that
    stdout and stderr are appended to, "" = /dev/null. umask 022 unless said otherwise.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    uid: int | None = None
    gid: int | None = None
    capabilities: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    output: str = ""
    no_new_privs: bool = True
    umask: int = 0o022

    def encode(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def spawn(plan: Spawn) -> processes.ProcessId:
    """Start it from this (single-threaded) process and return its identity. Raises Failed when it did not start."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        _detach(plan, writing)
    os.close(writing)
    os.waitpid(middle, 0)
    with os.fdopen(reading, "rb") as file:
        lines = file.read().decode(errors="replace").splitlines()
    if len(lines) != 1:
        raise Failed(f"cannot start {plan.argv[0]}: {lines[1] if len(lines) > 1 else 'it ended before it began'}")
    pid = int(lines[0])
    return processes.identify(pid) or processes.ProcessId(pid=pid, started=0)


def _detach(plan: Spawn, report: int) -> None:
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.write(report, f"{os.getpid()}\n".encode())
        for folder in plan.cgroups:
            (Path(folder) / "cgroup.procs").write_text(f"{os.getpid()}\n", encoding="ascii")
        _redirect(plan.output)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(plan.umask)
        os.chdir("/")
        if plan.uid is not None:
            gid = plan.uid if plan.gid is None else plan.gid
            namespaces.become_user(uid=plan.uid, gid=gid, capabilities=plan.capabilities)
        if plan.no_new_privs:
            namespaces.forbid_new_privileges()
        os.execve(plan.argv[0], plan.argv, environment(plan.env))  # noqa: S606 - no shell is the point
    except BaseException as error:
        os.write(report, str(error).replace("\n", " ").encode())
    finally:
        os._exit(127)


def _redirect(output: str) -> None:
    nothing = os.open("/dev/null", os.O_RDWR)
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640) if output else nothing
    os.dup2(nothing, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)


def encode_command(command: Command) -> dict[str, Any]:
    """Return a command as JSON values, for `run_encoded`."""
    return {
        "argv": command.argv,
        "env": command.env,
        "stdin": None if command.stdin is None else base64.b64encode(command.stdin).decode(),
        "cwd": None if command.cwd is None else str(command.cwd),
        "timeout": command.timeout,
    }


def run_encoded(args: dict[str, Any], _fds: tuple[int, ...] = ()) -> dict[str, Any]:
    """Run a command from `encode_command` to its end; its outcome as JSON values, for `judge_outcome`."""
    command = Command(
        argv=tuple(args["argv"]),
        env=args.get("env") or {},
        stdin=None if args.get("stdin") is None else base64.b64decode(args["stdin"]),
        cwd=Path(args["cwd"]) if args.get("cwd") else None,
        timeout=args.get("timeout", 60.0),
        accept=tuple(range(-64, 256)),  # the caller judges the status
    )
    try:
        done = run(command)
    except CommandFailed as error:
        stderr = base64.b64encode(error.stderr.encode()).decode()
        return {"status": error.status, "stdout": "", "stderr": stderr}
    stdout, stderr = base64.b64encode(done.stdout).decode(), base64.b64encode(done.stderr).decode()
    return {"status": done.status, "stdout": stdout, "stderr": stderr}


def judge_outcome(command: Command, outcome: dict[str, Any]) -> Result:
    """Return what `run_encoded` brought. Raises CommandFailed as `nebh.host.run.run` does."""
    stdout, stderr = base64.b64decode(outcome["stdout"]), base64.b64decode(outcome["stderr"])
    status = outcome["status"]
    if status is None or status not in command.accept:
        raise CommandFailed(command, status=status, stderr=stderr.decode(errors="replace"))
    return Result(status=status, stdout=stdout, stderr=stderr)


def _spawn(args: dict[str, Any], _fds: tuple[int, ...]) -> dict[str, Any]:
    tuples: dict[str, Any] = {name: tuple(args[name]) for name in ("argv", "capabilities", "cgroups") if name in args}
    process = spawn(Spawn(**{**args, **tuples}))
    return {"pid": process.pid, "started": process.started}


STANDARD_HANDLERS: dict[str, Callable[[dict[str, Any], tuple[int, ...]], Any]] = {"run": run_encoded, "spawn": _spawn}
