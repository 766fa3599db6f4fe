"""Whoever keeps notes in the data demo: adds one after the other through the proxy, and remembers which it was told of."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.testing.cloud import Cloud
from nebh.testing.load.generator import Row

HOST = "notes.example.org"
PAUSE = 0.02


@dataclass(frozen=True, kw_only=True)
class Written:
    """A note that somebody was told is kept. at: Unix seconds."""

    number: int
    at: float


class Writer:
    """One client in the cloud's network. rows: every request; written: what it was told of."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.rows: list[Row] = []
        self.written: list[Written] = []

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write until the end of the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._write, args=(ended,), name="notes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(30)

    def numbers(self) -> set[int]:
        """Return the numbers of all notes that there are now."""
        _, text = self._cloud.get("/", host=HOST, timeout=20)
        return {int(line.partition(" | ")[0]) for line in text.splitlines()}

    def longest_stop(self, since: float) -> float:
        """Return the longest time, in seconds, between two answers that were good, from `since` (Unix seconds) on."""
        times = [row.received for row in self.rows if not row.error and row.received >= since]
        return round(max((after - before for before, after in pairwise(times)), default=0.0), 3)

    def _write(self, ended: threading.Event) -> None:
        descriptor = os.open(Path(f"/run/netns/{self._cloud.name}"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(descriptor, CLONE_NEWNET)
        finally:
            os.close(descriptor)
        number = 0
        while not ended.wait(PAUSE):
            number += 1
            self._one(number)

    def _one(self, number: int) -> None:
        sent, began = time.time(), time.monotonic()
        status, text, error = 0, "", ""
        connection = http.client.HTTPConnection("127.0.0.1", self._cloud.http_port, timeout=10)
        try:
            connection.request("POST", "/", body=f"note {number}", headers={"Host": HOST})
            answer = connection.getresponse()
            status, text = answer.status, answer.read().decode(errors="replace").strip()
            error = "" if status == 200 else f"status {status}"
        except (OSError, http.client.HTTPException) as problem:
            error = type(problem).__name__
        finally:
            connection.close()
        received = time.time()
        if not error:
            self.written.append(Written(number=int(text), at=received))
        self.rows.append(
            Row(
                sent=sent,
                received=received,
                connection=number,
                kind="fresh",
                method="POST",
                status=status,
                version="",
                error=error,
                latency_ms=(time.monotonic() - began) * 1000,
            )
        )
