"""Time, handed in as a value or as this object, never read by decisions."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """now_ms: Unix time in ms. monotonic: seconds of CLOCK_MONOTONIC."""

    def now_ms(self) -> int: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
