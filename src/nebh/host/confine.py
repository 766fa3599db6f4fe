"""Work on untrusted input in a child: an ordinary user where possible, no new privileges, bounded CPU and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWIPC: Final = 0x08000000
_NOBODY: Final = 65534


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """cpu: seconds. memory: bytes of address space beyond what the caller has. file: bytes of the largest file
    written. user: the id to become when the caller is root; None keeps root's (and then only the limits hold)."""

    cpu: int
    memory: int
    file: int
    user: int | None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a confined child left: its answer, and the signal that killed it (0 when it ended by itself)."""

    answer: bytes
    signal: int
    status: int


def ordinary_user() -> int | None:
    """Return the id that root's children should take, or None when this process is not root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return _NOBODY


def run_confined(work: Callable[[], bytes], *, confinement: Confinement, limit: int) -> Ended:
    """Run `work` in a forked child under `confinement` and return its answer of at most `limit` bytes (a longer one is
    cut and the child killed). The child keeps the open descriptors; it dies with its parent. `work` must not raise."""
    receive, send = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(receive)
        _run_child(work, confinement, send)
    os.close(send)
    try:
        answer = _read_answer(receive, limit)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(receive)
    if len(answer) > limit:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(answer=answer[:limit], signal=max(0, -status), status=max(0, status))


def _read_answer(receive: int, limit: int) -> bytes:
    parts, total = [], 0
    while total <= limit and (chunk := os.read(receive, 1 << 20)):
        parts.append(chunk)
        total += len(chunk)
    return b"".join(parts)


def _run_child(work: Callable[[], bytes], confinement: Confinement, send: int) -> NoReturn:
    status = 1
    try:
        _confine(confinement)
        view = memoryview(work())
        while view:
            view = view[os.write(send, view) :]
        status = 0
    finally:
        # Never back into the caller's code: its locks, buffers and exit handlers belong to the parent.
        os._exit(status)


def _confine(confinement: Confinement) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if os.geteuid() == 0:
        _LIBC.unshare(_CLONE_NEWNET | _CLONE_NEWIPC)
    if confinement.user is not None and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(confinement.user, confinement.user, confinement.user)
        os.setresuid(confinement.user, confinement.user, confinement.user)
        # Changing the user clears the death signal.
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, confinement.cpu),
        (resource.RLIMIT_FSIZE, confinement.file),
        (resource.RLIMIT_AS, _address_space() + confinement.memory),
    ):
        _lower(kind, value)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (bounded, bounded))


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one line of the kernel
        return int(file.read().split()[0]) * resource.getpagesize()
