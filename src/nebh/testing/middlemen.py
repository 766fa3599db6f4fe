"""Hostile stand-ins for tests: somebody between agent (or command line) and controller, and between executor and agent.

Each takes the place of a real socket, hands on what its test does not touch, and leaves the real one behind again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from nebh.client.frame_channel import FrameChannel, Head, connect_frames, serve_frames
from nebh.host.channels import Channel, Closed, Listener, Peer, connect_unix
from nebh.model.errors import NebhError, NotFound

_PIECE = 64 * 1024
_HEAD_LIMIT = 64 * 1024
Lie = Callable[[str], bytes | None]
"""Target of a GET (`/v1/metadata/timestamp.json`) -> the body to answer, None = what the controller says. NotFound
raised becomes a 404."""
AgentLie = Callable[[FrameChannel, Head], bool]
"""Answers a request of the executor in the agent's place; False = the real agent shall answer."""


@contextlib.contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """Put the real socket aside; yield where it is now."""
    real = path.with_name("real.sock")
    path.rename(real)
    try:
        yield real
    finally:
        path.unlink(missing_ok=True)
        real.rename(path)


class HostileController:
    """Answers some GETs of agent and command line itself. A context manager."""

    def __init__(self, path: Path, lie: Lie) -> None:
        """path: the controller's socket."""
        self._path, self._lie = path, lie
        self._stack = contextlib.ExitStack()
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        owner = self._path.stat()
        self._real = self._stack.enter_context(in_place_of(self._path))
        self._listener = Listener(self._path, mode=0o666, uid=owner.st_uid, gid=owner.st_gid)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._stack.close()

    def _accept(self) -> None:
        with contextlib.suppress(Closed, OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept(),), daemon=True).start()

    def _serve(self, channel: Channel) -> None:
        with channel, contextlib.suppress(NebhError, OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                more = channel.receive_some(_PIECE, timeout=60.0)
                data += more
                if not more or len(data) > _HEAD_LIMIT:
                    return
            method, target = data.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
            self.asked.append(f"{method} {target}")
            answer = self._answer(target) if method == "GET" else None
            if answer is not None:
                channel.send(answer)
                return
            self._hand_on(channel, data)

    def _answer(self, target: str) -> bytes | None:
        try:
            body = self._lie(target)
            status = "200 OK"
        except NotFound:
            body, status = b'{"error":"no such file","hint":"","kind":"NotFound","rule":""}', "404 Not Found"
        if body is None:
            return None
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return (head + "connection: close\r\n\r\n").encode() + body

    def _hand_on(self, channel: Channel, begun: bytes) -> None:
        """One request per connection, so that each is seen here."""
        head, _, body = begun.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        with connect_unix(self._real) as real:
            real.send(b"\r\n".join((*lines, b"Connection: close")) + b"\r\n\r\n" + body)
            threading.Thread(target=_relay, args=(channel, real), daemon=True).start()
            _relay(real, channel)


def _relay(source: Channel, to: Channel) -> None:
    with contextlib.suppress(NebhError, OSError):
        while data := source.receive_some(_PIECE, timeout=120.0):
            to.send(data)


class HostileAgent:
    """Answers some of the executor's requests itself. A context manager."""

    def __init__(self, path: Path, lie: AgentLie) -> None:
        """path: the agent's socket."""
        self._path, self._lie = path, lie
        self._stack = contextlib.ExitStack()
        self.lies = 0

    def __enter__(self) -> Self:
        self._real = self._stack.enter_context(in_place_of(self._path))
        server = serve_frames(self._path, mode=0o660, handler=self._handle, allowed_uids=None)
        self._stack.callback(server.close, timeout=2.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _handle(self, channel: FrameChannel, head: Head, body: bytes, _: Peer) -> None:
        if self._lie(channel, head):
            self.lies += 1
            return
        with connect_frames(self._real) as real:
            real.send(head, body)
            ends = len(head["items"]) if head.get("op") == "objects" else 1
            while ends:
                answer, content = real.receive(60.0)
                channel.send(answer, content)
                if head.get("op") != "objects" or "error" in answer or answer.get("last"):
                    ends -= 1
                if "error" in answer:
                    return
