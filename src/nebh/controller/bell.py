"""Waiting without polling: long polls sleep on a bell until somebody rings it."""

from __future__ import annotations

import asyncio


class Bell:
    """Any number of coroutines wait; `ring` wakes them all. Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._silenced = False

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    def ring(self) -> None:
        """Wake everybody who waits now."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def silence(self) -> None:
        """Wake everybody and let nobody wait again: the program ends."""
        self._silenced = True
        self.ring()

    async def wait(self, seconds: float) -> bool:
        """Wait for the next ring; False when `seconds` passed without one, or when nothing will ever ring."""
        if self._silenced or seconds <= 0:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return not self._silenced
