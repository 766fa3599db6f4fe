"""A client that asks one question again and again, and remembers when which version answered."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.testing.cloud import PATIENCE

NAP = 0.002


class Poller:
    """Good answers, in order: (s of the monotonic clock, version). space: name of a network namespace."""

    def __init__(self, space: str, *, port: int, host: str) -> None:
        self._space, self._port, self._host = space, port, host
        self.answers: list[tuple[float, str]] = []
        self.failed = 0

    def ask_until(self, ended: threading.Event) -> None:
        """Ask in the calling thread, which stays in that namespace."""
        with Path(f"/run/netns/{self._space}").open("rb") as space:
            setns(space.fileno(), CLONE_NEWNET)
        while not ended.wait(NAP):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            try:
                connection.request("GET", "/", headers={"Host": self._host})
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status == 200:
                    self.answers.append((time.monotonic(), text.split()[0]))
                else:
                    self.failed += 1
            except (OSError, http.client.HTTPException):
                self.failed += 1
            finally:
                connection.close()

    def wait_for(self, version: str, *, since: float) -> float:
        """Wait until a version answers; return the ms from `since` to its first answer. Raises TimeoutError."""
        end = time.monotonic() + PATIENCE
        while True:
            found = next((at for at, who in list(self.answers) if who == version and at >= since), None)
            if found is not None:
                return (found - since) * 1000
            if time.monotonic() > end:
                raise TimeoutError(f"{version} does not answer")
            time.sleep(0.01)

    def longest_gap(self, *, since: float) -> float:
        """Return the longest time between two good answers, in ms, the second of them after `since`."""
        times = [at for at, _ in list(self.answers)]
        return max((after - before) * 1000 for before, after in pairwise(times) if after >= since)


@contextlib.contextmanager
def polling(space: str, *, port: int, host: str) -> Iterator[Poller]:
    """Give a client that asks until the end of the block."""
    poller, ended = Poller(space, port=port, host=host), threading.Event()
    thread = threading.Thread(target=poller.ask_until, args=(ended,), name="poller", daemon=True)
    thread.start()
    try:
        yield poller
    finally:
        ended.set()
        thread.join(30)
