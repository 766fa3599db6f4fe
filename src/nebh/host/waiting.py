"""Waiting for many file descriptors to become readable, by name."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections import deque
from collections.abc import Iterator


class Waiter:
    """`names()` yields the name of each descriptor once it is readable, and closes it. `add`, `say` and `close` may be
    called from any thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read, selectors.EVENT_READ, None)
        self._lock = threading.Lock()
        self._added: deque[tuple[int, str]] = deque()
        self._said: deque[str] = deque()
        self._closed = False

    def add(self, descriptor: int, name: str) -> None:
        """Wait for `descriptor`, which is ours from now on."""
        with self._lock:
            self._added.append((descriptor, name))
        self._wake()

    def say(self, name: str) -> None:
        """Have `names()` yield `name` at once."""
        with self._lock:
            self._said.append(name)
        self._wake()

    def close(self) -> None:
        """Let `names()` end."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write, b".")

    def names(self) -> Iterator[str]:
        """Yield names as their descriptors become readable, until `close`."""
        while not self._closed:
            for key, _ in self._selector.select():
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._read, 4096)
                    continue
                self._selector.unregister(key.fd)
                os.close(key.fd)
                yield key.data
            with self._lock:
                added, said = list(self._added), list(self._said)
                self._added.clear()
                self._said.clear()
            for descriptor, name in added:
                self._selector.register(descriptor, selectors.EVENT_READ, name)
            yield from said
        self._release()

    def _release(self) -> None:
        for key in list(self._selector.get_map().values()):
            with contextlib.suppress(OSError):
                os.close(key.fd)
        self._selector.close()
        with contextlib.suppress(OSError):
            os.close(self._write)
