"""Clients whose connections last: slow request bodies, WebSockets, server-sent events. Each counts what it lost."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nebh.host.links import Link, connect_tcp

PATIENCE = 20.0
SLOW = 1.5
"""Seconds that a slow body takes."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One request, line or event. error "": what was expected came."""

    kind: str
    at: float
    error: str


class Streams:
    """Threads of one kind each, between `start` and `stop`. began: seconds of CLOCK_MONOTONIC of every cut-over,
    appended by the caller; drain: for how long after it an old stream must live on."""

    def __init__(self, *, port: int, host: str, drain: float, enter: Callable[[], None]) -> None:
        self._place = ("127.0.0.1", port)
        self._host = host
        self._drain = drain
        self._enter = enter
        self.began: list[float] = []
        self.outcomes: list[Outcome] = []
        self._ended = threading.Event()
        kinds = (self._slow_bodies, self._websocket, self._events)
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), daemon=True) for kind in kinds for _ in range(2)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; waits for what is under way."""
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, kind: Callable[[], None]) -> None:
        self._enter()
        while not self._ended.is_set():
            kind()

    def _note(self, kind: str, error: str = "") -> None:
        self.outcomes.append(Outcome(kind=kind, at=time.monotonic(), error=error))

    def _connect(self) -> Link:
        return connect_tcp(*self._place, timeout=PATIENCE)

    def _may_end(self, opened: float) -> bool:
        """Tell whether a stream opened then may end now: a cut-over since is longer ago than the drain time."""
        now = time.monotonic()
        return any(opened - 1 < one and now - one > self._drain - 0.2 for one in self.began)

    def _slow_bodies(self) -> None:
        body = os.urandom(4096)
        head = f"POST /echo HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            with self._connect() as link:
                link.sendall(head.encode())
                for place in range(0, len(body), 256):
                    link.sendall(body[place : place + 256])
                    time.sleep(SLOW / 16)
                answer = b""
                while more := link.recv(65536):
                    answer += more
        except OSError as error:
            self._note("slow body", f"{type(error).__name__}: {error}")
            return
        good = hashlib.sha256(body).hexdigest().encode() in answer
        self._note("slow body", "" if good else f"another answer: {answer[:60]!r}")

    def _websocket(self) -> None:
        opened = time.monotonic()
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET /socket HTTP/1.1\r\nHost: {self._host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        try:
            link = self._connect()
            link.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
            file = link.makefile("rb")
            if b" 101 " not in file.readline():
                raise OSError("it was not upgraded")
            while file.readline().strip():
                pass
        except OSError as error:
            self._note("websocket", f"cannot open: {error}")
            return
        with contextlib.closing(link):
            self._lines(link, file.readline, opened)

    def _lines(self, link: Link, readline: Callable[[], bytes], opened: float) -> None:
        """Send a line, read it back, until the other side ends."""
        while not self._ended.is_set():
            try:
                link.sendall(b"hello\n")
                line = readline()
            except OSError:
                line = b""
            if not line.endswith(b"hello\n"):
                self._note("websocket", "" if self._may_end(opened) else "cut before its time")
                return
            self._note("websocket")
            time.sleep(0.1)

    def _events(self) -> None:
        opened = time.monotonic()
        try:
            link = self._connect()
            link.sendall(f"GET /events HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
            file = link.makefile("rb")
            if b" 200 " not in file.readline():
                raise OSError("not 200")
        except OSError as error:
            self._note("events", f"cannot open: {error}")
            return
        said_goodbye = False
        with contextlib.closing(link):
            while not self._ended.is_set():
                try:
                    line = file.readline()
                except OSError:
                    line = b""
                if not line:
                    good = said_goodbye or self._may_end(opened)
                    self._note("events", "" if good else "cut before its time")
                    return
                said_goodbye |= line.startswith(b"data: goodbye")
                if line.startswith(b"data"):
                    self._note("events")
