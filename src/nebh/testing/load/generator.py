"""Connections that send requests by the clock, and what came back."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nebh.testing.load.exchange import Answer, BadAnswer, Connection


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to, and what to ask. host: the Host header."""

    address: str
    port: int
    host: str
    path: str = "/"
    post_path: str = "/echo"


@dataclass(frozen=True, kw_only=True)
class Mix:
    """rate: requests per second over all connections. keepalive, fresh: lanes that keep their connection, or open one
    for each request. post_share: of all requests. body: largest POST body in bytes. timeout: seconds per request."""

    rate: float = 150.0
    keepalive: int = 8
    fresh: int = 2
    post_share: float = 0.34
    body: int = 4096
    timeout: float = 5.0


@dataclass(frozen=True)
class Row:
    """One request. sent, received: Unix time in seconds. error "" = 200 with the expected body in time.
    status 0 = no answer. version: what the answer's JSON says."""

    sent: float
    received: float
    connection: int
    kind: str
    method: str
    status: int
    version: str
    error: str
    latency_ms: float


class Load:
    """Runs in a thread of its own between `start` and `stop`. rows: what happened, in the order of answers; with
    `sink` each row goes there instead. enter: called in the thread before anything is sent, such as to join a network
    namespace. reopened: keep-alive connections the server had ended between two requests."""

    def __init__(
        self,
        target: Target,
        mix: Mix | None = None,
        *,
        sink: Callable[[Row], None] | None = None,
        enter: Callable[[], None] | None = None,
    ) -> None:
        self.target = target
        self.mix = mix or Mix()
        self.rows: list[Row] = []
        self.reopened = 0
        self._sink = sink or self.rows.append
        self._enter = enter
        self._stopping = threading.Event()
        self._connections = 0
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._random = random.Random()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Send no further request; return when those under way are answered or have failed."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        if self._enter is not None:
            self._enter()
        asyncio.run(self._drive())

    async def _drive(self) -> None:
        lanes = self.mix.keepalive + self.mix.fresh
        begin = time.monotonic()
        work = []
        for lane in range(lanes):
            first = begin + lane / self.mix.rate
            work.append(self._lane(first, lanes / self.mix.rate, keeps=lane < self.mix.keepalive))
        await asyncio.gather(*work)

    async def _lane(self, due: float, interval: float, *, keeps: bool) -> None:
        """Send one request per interval. A lane that was held up sends at once until it has caught up."""
        connection: Connection | None = None
        while not self._stopping.is_set():
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(min(wait, 0.2))
                continue
            due = max(due + interval, time.monotonic() - self.mix.timeout)
            if connection is not None and await connection.is_over():
                connection.close()
                connection = None
                self.reopened += 1
            connection = await self._request(connection, keeps=keeps)
            if connection is not None and not keeps:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    async def _request(self, connection: Connection | None, *, keeps: bool) -> Connection | None:
        """Send one request, note what came of it; return the connection if it may carry another."""
        method, data, digest = self._compose(keeps=keeps)
        number = connection.number if connection else 0
        sent, begin = time.time(), time.monotonic()
        answer = Answer(status=0)
        version = error = ""
        try:
            async with asyncio.timeout(self.mix.timeout):
                if connection is None:
                    self._connections += 1
                    number = self._connections  # before the wait: other lanes connect meanwhile
                    connection = await Connection.open(self.target.address, self.target.port)
                    connection.number = number
                answer = await connection.ask(data)
            version, error = judge(answer, digest)
        except TimeoutError:
            error = "timeout"
        except BadAnswer as cause:
            error = f"bad answer: {cause}"
        except OSError as cause:
            error = f"{'connection' if connection else 'connect'}: {cause.strerror or cause}"
        kind = "keepalive" if keeps else "fresh"
        latency = (time.monotonic() - begin) * 1000
        self._sink(Row(sent, time.time(), number, kind, method, answer.status, version, error, latency))
        if answer.status == 0 and connection is not None:
            connection.close()
            return None
        return connection

    def _compose(self, *, keeps: bool) -> tuple[str, bytes, str]:
        """Return method, the whole request, and the digest that the answer must name ("" for GET)."""
        end = "" if keeps else "Connection: close\r\n"
        if self._random.random() >= self.mix.post_share:
            head = f"GET {self.target.path} HTTP/1.1\r\nHost: {self.target.host}\r\n{end}\r\n"
            return "GET", head.encode(), ""
        body = self._random.randbytes(self._random.randint(1, self.mix.body))
        head = f"POST {self.target.post_path} HTTP/1.1\r\nHost: {self.target.host}\r\n{end}Content-Length: {len(body)}\r\n\r\n"
        return "POST", head.encode() + body, hashlib.sha256(body).hexdigest()


def judge(answer: Answer, digest: str) -> tuple[str, str]:
    """Return the version that answered and what is wrong ("" = nothing)."""
    try:
        value = json.loads(answer.body)
        version = str(value["version"])
    except (ValueError, KeyError, TypeError):
        return "", f"status {answer.status}" if answer.status != 200 else "the body is not what was expected"
    if answer.status != 200:
        return version, f"status {answer.status}"
    if digest and value.get("digest") != digest:
        return version, "another body came back"
    return version, ""


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return counts, latencies in ms and the longest time in ms without a good answer."""
    good = sorted(row.latency_ms for row in rows if not row.error)
    times = sorted(row.received for row in rows if not row.error)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return {
        "requests": len(rows),
        "failed": sum(1 for row in rows if row.error),
        "errors": dict(Counter(row.error for row in rows if row.error).most_common(10)),
        "versions": dict(Counter(row.version for row in rows if row.version)),
        "kinds": dict(Counter(f"{row.kind} {row.method}" for row in rows)),
        "p50_ms": round(good[len(good) // 2], 2) if good else None,
        "p99_ms": round(good[len(good) * 99 // 100], 2) if good else None,
        "max_ms": round(good[-1], 2) if good else None,
        "longest_gap_ms": round(max(gaps) * 1000, 2) if gaps else None,
    }
