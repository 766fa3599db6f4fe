"""Programs that fetch what strangers name: a network of their own, out of which only our relay leads.

The program's network namespace has a loopback and nothing else. On it listen a proxy, which the usual variables name,
and a port for each loopback place that the program may reach, because programs ask no proxy for those.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from nebh.host.confine import ordinary_user
from nebh.host.namespaces import CLONE_NEWNET, CLONE_NEWUSER, die_with_parent, forbid_new_privileges, unshare
from nebh.host.reach import Place, Reach
from nebh.host.run import Command, CommandFailed, environment
from nebh.model.errors import Failed

_FIRST_PORT: Final = 3128
_MOST_DOORS: Final = 64
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_NO_IPV6: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_REPORT: Final = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A place that the program asked for and did not get, and the internal address that its name stands for."""

    place: Place
    address: str


@dataclass(frozen=True, kw_only=True)
class FencedEnd:
    """status: of the program, negative for a signal. stderr: all it wrote there. refused: in the order it asked. trouble: what
    hindered connections that were not refused."""

    status: int
    stderr: str
    refused: tuple[Refused, ...] = ()
    trouble: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Door:
    """Where something listens inside; place: where it leads, None for the proxy."""

    address: str
    port: int
    place: Place | None = None


def run_fenced(command: Command, *, reach: Reach) -> FencedEnd:
    """Run a command to its end; its proxy variables are ours. Raises CommandFailed for a timeout and a missing
    program, Failed where the kernel lets this user make no network namespace."""
    doors = _plan_doors(reach)
    with contextlib.ExitStack() as stack:
        process, sockets = _start(command, doors, stack)
        reading = stack.enter_context(_relay(reach, doors, sockets))
        try:
            _, stderr = process.communicate(timeout=command.timeout)
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(command, status=None, stderr=(error.stderr or b"").decode(errors="replace")) from error
        said = _read_report(reading)
    refused = tuple(
        Refused(place=Place(host=one["host"], port=one["port"]), address=one["address"])
        for one in said
        if "address" in one
    )
    trouble = tuple(one["trouble"] for one in said if "trouble" in one)
    text = stderr.decode(errors="replace")
    return FencedEnd(status=process.returncode, stderr=text, refused=refused, trouble=trouble)


def _plan_doors(reach: Reach) -> tuple[_Door, ...]:
    named = [place for place in sorted(reach.named, key=str) if place.loopback]
    doors = {(address, place.port): place for place in named for address in place.loopback}
    port = next(port for port in range(_FIRST_PORT, 1 << 16) if port not in {port for _, port in doors})
    listed = [_Door(address=address, port=port, place=place) for (address, port), place in doors.items()]
    return (_Door(address="127.0.0.1", port=port), *listed[: _MOST_DOORS - 1])


def _start(
    command: Command, doors: tuple[_Door, ...], stack: contextlib.ExitStack
) -> tuple[subprocess.Popen[bytes], list[socket.socket | None]]:
    proxy = f"http://{doors[0].address}:{doors[0].port}"
    outside = {name: value for name, value in command.env.items() if not name.lower().endswith("_proxy")}
    inside = {**outside, **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    with ours, theirs:
        try:
            process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(inside),
                cwd=command.cwd,
                preexec_fn=lambda: _enter(doors, theirs, parent),  # noqa: PLW1509 - it makes system calls only
            )
        except FileNotFoundError as error:
            raise CommandFailed(command, status=127, stderr=f"{error.filename} is not installed") from error
        stack.callback(_end, process)
        theirs.close()
        data, descriptors, *_ = socket.recv_fds(ours, 4096, _MOST_DOORS, socket.MSG_CMSG_CLOEXEC)
    opened = [stack.enter_context(socket.socket(fileno=descriptor)) for descriptor in descriptors]
    flags = json.loads(data or b'"it ended before it began"')
    if isinstance(flags, str):
        raise Failed(
            f"cannot make a network for {command.argv[0]} alone, and without one it could be led to internal"
            f" addresses: {flags}",
            hint="run it as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone,"
            " kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces)",
        )
    left = iter(opened)
    return process, [next(left) if flag else None for flag in flags]


def _enter(doors: tuple[_Door, ...], channel: socket.socket, parent: int) -> None:
    """Run in the child before the program: leave the network, and hand out the sockets that listen in the new one."""
    die_with_parent(parent=parent)
    try:
        _own_network()
        sockets = [_listen(door) for door in doors]
        data = json.dumps([one is not None for one in sockets]).encode()
        socket.send_fds(channel, [data], [one.fileno() for one in sockets if one is not None])
    except OSError as error:
        channel.send(json.dumps(str(error)).encode())
        os._exit(1)
    forbid_new_privileges()


def _own_network() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWNET)
    except PermissionError:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        # The same ids inside: the program reads its user's files as it does outside.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1\n", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1\n", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        (flags,) = struct.unpack_from("h", asked, 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _listen(door: _Door) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in door.address else socket.AF_INET
    listening = None
    try:
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listening.bind((door.address, door.port))
        listening.listen(64)
    except OSError as error:
        if listening is not None:
            listening.close()
        if family == socket.AF_INET6 and error.errno in _NO_IPV6:
            return None
        raise
    return listening


@contextlib.contextmanager
def _relay(reach: Reach, doors: tuple[_Door, ...], sockets: list[socket.socket | None]) -> Iterator[int]:
    """Serve the doors in a child until the end; yields the pipe that tells what was refused."""
    pairs = [(one, door.place) for one, door in zip(sockets, doors, strict=True) if one is not None]
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            kept = {writing, *(one.fileno() for one, _ in pairs)}
            _serve(lambda: _run_relay(reach, pairs, writing), kept=kept, parent=parent)
        os.close(writing)
        for one, _ in pairs:
            one.close()
        try:
            yield reading
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    finally:
        os.close(reading)


def _serve(work: Callable[[], None], *, kept: set[int], parent: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells all; our parent ends us
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in {0, 1, 2, *kept}:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        user = ordinary_user()
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        die_with_parent(parent=parent)  # changing the user clears it
        forbid_new_privileges()
        work()
    finally:
        os._exit(1)


def _run_relay(reach: Reach, pairs: list[tuple[socket.socket, Place | None]], report: int) -> None:
    import asyncio

    from nebh.host.relay import Relay  # and with it asyncio and h11, which only those who fetch need

    asyncio.run(Relay(reach, report).serve(pairs))


def _read_report(reading: int) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in os.read(reading, _REPORT).splitlines()]
    except BlockingIOError:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
