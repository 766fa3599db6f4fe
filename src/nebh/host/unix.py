"""A client of line protocols with a prompt over a unix socket, such as HAProxy's runtime API."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

from nebh.model.errors import Unreachable

# HAProxy's worker says "> "; its master "master> ", or "master[ReloadFailed]> " after a reload that failed
PROMPT = re.compile(rb"(?:^|\n)(?:master(?:\[\w+\])?|\d+)?> ")
_COMMANDS_AT_ONCE = 64


def ask_once(path: Path, text: str, *, timeout: float = 5.0) -> str:
    """Return the whole answer to one command of a line protocol, sent as it is (with what follows it) over a connection of
    its own. Raises Unreachable."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as stream:
        data = bytearray()
        try:
            stream.settimeout(timeout)
            stream.connect(str(path))
            stream.sendall(text.encode())
            while chunk := stream.recv(1 << 16):
                data += chunk
        except OSError as error:
            raise Unreachable(f"cannot ask {path.name}: {error.strerror or error}") from error
    return data.decode(errors="replace").strip()


class PromptConnection:
    """One interactive connection, made at the first use and made anew when the other side went away. Not thread-safe.

    `ask` sends several commands in one write and returns one answer for each. A command may reach the other side
    twice (it was sent, the connection broke, it is sent again): use it for commands that may be repeated.
    """

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self.path = path
        self.connections = 0
        self._timeout = timeout
        self._socket: socket.socket | None = None

    def ask(self, commands: tuple[str, ...]) -> tuple[str, ...]:
        """Return the answers, stripped, in order. Raises Unreachable."""
        answers: list[str] = []
        for start in range(0, len(commands), _COMMANDS_AT_ONCE):
            answers += self._ask_again(commands[start : start + _COMMANDS_AT_ONCE])
        return tuple(answers)

    def close(self) -> None:
        """Hang up; the next `ask` connects again."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _ask_again(self, commands: tuple[str, ...]) -> list[str]:
        fresh = self._socket is None
        try:
            return self._exchange(commands)
        except OSError as error:
            self.close()
            if fresh:
                raise self._unreachable(error) from error
        try:
            return self._exchange(commands)
        except OSError as error:
            self.close()
            raise self._unreachable(error) from error

    def _unreachable(self, error: OSError) -> Unreachable:
        return Unreachable(f"cannot ask {self.path.name}: {error.strerror or error}")

    def _exchange(self, commands: tuple[str, ...]) -> list[str]:
        stream = self._socket or self._connect()
        stream.sendall((";".join(commands) + "\n").encode())
        return self._receive(stream, len(commands))

    def _connect(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            stream.settimeout(self._timeout)
            stream.connect(str(self.path))
            stream.sendall(b"prompt\n")
            self._receive(stream, 1)
        except BaseException:
            stream.close()
            raise
        self._socket = stream
        self.connections += 1
        return stream

    def _receive(self, stream: socket.socket, count: int) -> list[str]:
        data = bytearray()
        while len(PROMPT.findall(data)) < count:
            chunk = stream.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError("it hung up")
            data += chunk
        return [part.decode(errors="replace").strip() for part in PROMPT.split(bytes(data))[:count]]
