"""The one place that starts processes."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nebh.model.errors import Failed

Started = subprocess.Popen[bytes]
TimeoutExpired = subprocess.TimeoutExpired
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start: argv as a list, an environment built from nothing, stdin closed unless `stdin` is given."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    cwd: Path | None = None
    timeout: float | None = 60.0
    accept: tuple[int, ...] = (0,)

    def render(self) -> str:
        """Return the command so that it can be pasted into a shell."""
        return shlex.join(self.argv)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a process left behind."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")


class CommandFailed(Failed):
    """A process ended with a status that its caller does not accept, or did not end in time."""

    def __init__(self, command: Command, *, status: int | None, stderr: str) -> None:
        how = "did not end in time" if status is None else f"ended with status {status}"
        super().__init__(f"cannot run `{command.render()}`: it {how}: {stderr.strip()[-2000:]}")
        self.command = command
        self.status = status
        self.stderr = stderr


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return a minimal environment: PATH, LANG and `extra`."""
    return {"PATH": PATH, "LANG": "C.UTF-8", **(extra or {})}


def run(command: Command) -> Result:
    """Run `command` to its end. Raises CommandFailed for a status not in `accept`, for a timeout, a missing program."""
    try:
        done = subprocess.run(
            command.argv,
            input=command.stdin,
            stdin=subprocess.DEVNULL if command.stdin is None else None,
            capture_output=True,
            env=environment(command.env),
            cwd=command.cwd,
            timeout=command.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(command, status=None, stderr=(error.stderr or b"").decode(errors="replace")) from error
    except FileNotFoundError as error:
        raise CommandFailed(command, status=127, stderr=f"{error.filename} is not installed") from error
    if done.returncode not in command.accept:
        raise CommandFailed(command, status=done.returncode, stderr=done.stderr.decode(errors="replace"))
    return Result(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def start(
    command: Command,
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
    pass_fds: tuple[int, ...] = (),
    new_session: bool = True,
) -> subprocess.Popen[bytes]:
    """Start `command` and return at once; the caller waits for it or hands it on."""
    return subprocess.Popen(
        command.argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(command.env),
        cwd=command.cwd,
        pass_fds=pass_fds,
        start_new_session=new_session,
        close_fds=True,
    )


def run_on_terminal(command: Command) -> None:
    """Run a program that a person uses on this very terminal, to its end. Raises CommandFailed."""
    try:
        done = subprocess.run(command.argv, env=environment(command.env), cwd=command.cwd, check=False)
    except FileNotFoundError as error:
        raise CommandFailed(command, status=127, stderr=f"{error.filename} is not installed") from error
    if done.returncode not in command.accept:
        raise CommandFailed(command, status=done.returncode, stderr="")


def is_root() -> bool:
    """Tell whether this process may do what root may."""
    return os.geteuid() == 0
