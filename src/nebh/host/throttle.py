"""A limit on how fast bytes pass: one for all threads that share it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator


class Throttle:
    """Lets at most `rate` bytes a second pass, on average and after a second's worth at once; 0 = no limit."""

    def __init__(
        self,
        rate: int = 0,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self._monotonic, self._sleep = monotonic, sleep
        self._lock = threading.Lock()
        self._free_at = monotonic() - 1.0

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks, each when it is its time."""
        for chunk in chunks:
            self.wait_for(len(chunk))
            yield chunk

    def wait_for(self, size: int) -> None:
        """Return when `size` more bytes may pass."""
        if not self.rate:
            return
        with self._lock:
            now = self._monotonic()
            self._free_at = max(self._free_at, now - 1.0) + size / self.rate
            pause = self._free_at - now
        if pause > 0:
            self._sleep(pause)
