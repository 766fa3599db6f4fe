"""Stream sockets: unix ones with their peer's credentials, and plain or pinned TLS connections going out."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nebh.host.files import write_all
from nebh.model.errors import BadInput, Unreachable

if TYPE_CHECKING:
    from nebh.host.run import Command

PATH_LIMIT = 107
_CHUNK = 1 << 18


class Closed(Unreachable):
    """The other side ended the connection between two messages, or in the middle of one (`partial`)."""

    def __init__(self, message: str, *, partial: bool) -> None:
        super().__init__(message)
        self.partial = partial


class TimedOut(Unreachable):
    """Nothing, or not enough, arrived in time. The connection is of no further use once part of a message came."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who connected, as the kernel says it."""

    pid: int
    uid: int
    gid: int


class Channel:
    """A connected stream socket with whole-message deadlines. One thread sends, one receives."""

    def __init__(self, sock: socket.socket, *, name: str) -> None:
        self._socket = sock
        self.name = name

    def send(self, data: bytes, *, timeout: float | None = 30.0) -> None:
        """Send every byte within `timeout` seconds. Raises Unreachable."""
        end = None if timeout is None else time.monotonic() + timeout
        view = memoryview(data)
        try:
            while view:
                self._socket.settimeout(_left(end))
                view = view[self._socket.send(view[:_CHUNK]) :]
        except TimeoutError as error:
            raise TimedOut(f"cannot send to {self.name}: it does not read") from error
        except OSError as error:
            raise Closed(f"cannot send to {self.name}: {error.strerror or error}", partial=True) from error

    def receive(self, size: int, *, timeout: float | None) -> bytes:
        """Return exactly `size` bytes. Raises Closed (partial False when the connection ended cleanly before the
        first byte) or TimedOut."""
        end = None if timeout is None else time.monotonic() + timeout
        data = bytearray()
        while len(data) < size:
            try:
                piece = self._receive_some(min(size - len(data), _CHUNK), end)
            except Closed as error:
                raise Closed(error.message, partial=bool(data)) from error
            if not piece:
                raise Closed(f"{self.name} closed the connection", partial=bool(data))
            data += piece
        return bytes(data)

    def _receive_some(self, size: int, end: float | None) -> bytes:
        try:
            self._socket.settimeout(_left(end))
            return self._socket.recv(size)
        except TimeoutError as error:
            raise TimedOut(f"{self.name} did not answer in time") from error
        except OSError as error:
            raise Closed(f"cannot read from {self.name}: {error.strerror or error}", partial=False) from error

    def receive_some(self, size: int, *, timeout: float | None = None) -> bytes:
        """Return what is there, at most `size` bytes, waiting for the first; b"" at the end. Raises TimedOut, Closed."""
        return self._receive_some(size, None if timeout is None else time.monotonic() + timeout)

    def finish(self) -> None:
        """Tell the other side that no more will be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def peer(self) -> Peer:
        """Return the credentials of the process at the other end of a unix socket."""
        packed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, gid = struct.unpack("3i", packed)
        return Peer(pid=pid, uid=uid, gid=gid)

    def fileno(self) -> int:
        """Return the file descriptor, for select; -1 once closed."""
        return self._socket.fileno()

    def shutdown(self) -> None:
        """Wake a thread that waits in `receive` or `send`; it sees the connection closed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close; a second time does nothing."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _left(end: float | None) -> float | None:
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def connect_unix(path: Path, *, timeout: float = 5.0) -> Channel:
    """Connect to a unix stream socket. Raises Unreachable."""
    sock = open_unix(path, timeout=timeout)
    return Channel(sock, name=str(path))


def open_unix(path: Path, *, timeout: float) -> socket.socket:
    """Return a connected unix stream socket. Raises Unreachable with a hint."""
    _check_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout)
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise Unreachable(
            f"cannot connect to {path}: {error.strerror or error}", hint="is the program that serves it running?"
        ) from error
    return sock


class Listener:
    """A listening unix stream socket. `close` also removes its path, unless another has taken it."""

    def __init__(self, path: Path, *, mode: int, uid: int = -1, gid: int = -1) -> None:
        """Bind `path` in one step (bind beside, chmod, chown, rename); a dead socket there goes. Raises OSError."""
        _check_path(path)
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        beside = path.with_name(f".{os.getpid()}.{path.name}"[: PATH_LIMIT - len(str(path.parent)) - 1])
        try:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
            self._socket.bind(str(beside))
            beside.chmod(mode)
            if uid != -1 or gid != -1:
                os.chown(beside, uid, gid)
            self._socket.listen(64)
            beside.replace(path)
            self._inode = path.stat().st_ino
        except BaseException:
            self._socket.close()
            raise

    def accept(self) -> Channel:
        """Wait for the next connection. Raises Closed once the listener was closed."""
        try:
            sock, _ = self._socket.accept()
        except OSError as error:
            raise Closed(f"{self.path} no longer listens", partial=False) from error
        return Channel(sock, name=f"the peer on {self.path.name}")

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening; wakes `accept`."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()


def _check_path(path: Path) -> None:
    if len(str(path).encode()) > PATH_LIMIT:
        raise BadInput(f"cannot use the socket path {path}: longer than {PATH_LIMIT} bytes", hint="use a shorter --run")


def socket_pair() -> tuple[Channel, Channel]:
    """Return two connected channels."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(one, name="the first of a pair"), Channel(other, name="the second of a pair")


def listening_unix(path: Path, *, mode: int) -> socket.socket:
    """Return a socket that listens on `path`, for a server that accepts by itself; a dead socket there goes."""
    _check_path(path)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind(str(beside))
    beside.chmod(mode)
    sock.listen(256)
    beside.replace(path)
    return sock


def listening_tcp(address: str, port: int) -> socket.socket:
    """Return a TCP socket that listens on an IPv4 or IPv6 address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # What is accepted inherits it. An answer is sent in two pieces: the second would wait 40 ms for the first's ACK.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((address, port))
    sock.listen(256)
    return sock


def bridge_stdio(channel: Channel) -> None:
    """Copy standard input to the channel and the channel to standard output until the channel ends."""
    inward = 0
    ends = [inward, channel.fileno()]
    while True:
        ready, _, _ = select.select(ends, [], [])
        if inward in ready:
            data = os.read(inward, _CHUNK)
            if data:
                channel.send(data, timeout=None)
            else:
                ends.remove(inward)
                channel.finish()
        if channel.fileno() in ready:
            data = channel.receive_some(_CHUNK)
            if not data:
                return
            write_all(1, data)


def connect_command(command: Command, *, name: str) -> Channel:
    """Start a command and return a channel to its standard input and output; it ends with the channel. Its standard
    error is ours. Raises Unreachable when it cannot be started."""
    from nebh.host.run import start  # and with it subprocess: most callers connect to a socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        process = start(command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=None, new_session=False)
    except OSError as error:
        ours.close()
        raise Unreachable(f"cannot start `{command.render()}`: {error.strerror or error}") from error
    finally:
        theirs.close()
    channel = Channel(ours, name=name)
    threading.Thread(target=process.wait, name="reap", daemon=True).start()
    return channel


def open_tcp(*, host: str, port: int, timeout: float) -> socket.socket:
    """Return a connected TCP socket. Raises Unreachable."""
    try:
        sock = socket.create_connection((host, port), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except OSError as error:
        raise Unreachable(
            f"cannot connect to {host}:{port}: {error.strerror or error}",
            hint="is the address right, and the port open?",
        ) from error


def connect_tcp(*, host: str, port: int, timeout: float) -> Channel:
    """Connect without any protection. Raises Unreachable."""
    return Channel(open_tcp(host=host, port=port, timeout=timeout), name=f"{host}:{port}")
