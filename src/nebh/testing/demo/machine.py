"""Was it us or the machine? How long nothing at all ran, and what share of the processors others took."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Self

NAP = 0.02


class Watch:
    """Measures between `with` and its end; excuses nothing, but tells a slow machine from a slow cut-over."""

    def __init__(self) -> None:
        self.standstill = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = _ticks()
        self._stolen = 0.0

    def __enter__(self) -> Self:
        self._before = _ticks()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        total, stolen = (now - before for now, before in zip(_ticks(), self._before, strict=True))
        self._stolen = stolen / total if total else 0.0

    def facts(self) -> dict[str, Any]:
        """Return what was measured."""
        return {
            "longest_standstill_ms": round(self.standstill * 1000),
            "stolen_percent": round(self._stolen * 100, 1),
        }

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(NAP):
            now = time.monotonic()
            self.standstill = max(self.standstill, now - last - NAP)
            last = now


def _ticks() -> tuple[int, int]:
    """Return (all, stolen by the host) ticks of all processors together."""
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    numbers = [int(word) for word in words]
    return sum(numbers), numbers[7]
