"""Scrub: the node's objects are hashed again, slowly; what decayed is fetched anew, with an event."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from nebh.executor.context import Context
from nebh.host.throttle import Throttle
from nebh.images.mending import Decayed, find_decayed, mend
from nebh.model.errors import NebhError
from nebh.model.event import Severity

RATE: Final = 8 << 20
"""Bytes a second that are read to be hashed."""
FIRST_S: Final = 3600.0
EVERY_S: Final = 7 * 86_400.0


class Scrubber:
    """One pass a week in a thread of its own; it ends with the executor."""

    def __init__(self, context: Context, *, rate: int = RATE) -> None:
        self._context = context
        self._throttle = Throttle(rate, sleep=self._sleep)

    def start(self) -> None:
        """Begin, an hour from now."""
        threading.Thread(target=self._run, name="scrub", daemon=True).start()

    def _run(self) -> None:
        pause = FIRST_S
        while not self._context.stopping.wait(pause):
            pause = EVERY_S
            try:
                self.scrub()
            except (NebhError, OSError) as error:
                self._context.tell(
                    "object.scrub-failed", f"cannot scrub the objects: {error}", severity=Severity.WARNING
                )

    def _sleep(self, seconds: float) -> None:
        self._context.stopping.wait(seconds)

    def scrub(self) -> tuple[int, int]:
        """Hash every object once; return how many had decayed, and how many of them were mended."""
        found = mended = 0
        for one in find_decayed(self._context.store, self._throttle):
            if self._context.stopping.is_set():
                break
            found += 1
            mended += self._mend(one)
        return found, mended

    def _mend(self, one: Decayed) -> bool:
        context = self._context
        if one.size < 0:
            with context.store_lock:
                context.store.drop_object(one.digest)
            return True
        names = 0

        def take(_: str, __: int, chunks: Iterator[bytes]) -> None:
            nonlocal names
            names = mend(context.store, one, chunks)

        try:
            with context.store_lock:
                context.agent.objects(((one.digest, one.size),), take)
        except (NebhError, OSError) as error:
            context.tell(
                "object.damaged",
                f"object {one.digest[:12]} has decayed and could not be fetched anew: {error}",
                severity=Severity.ALARM,
                hint="is the disk failing? deploy the service again once the controller is reachable",
            )
            return False
        context.tell(
            "object.mended",
            f"object {one.digest[:12]} had decayed and was fetched anew, under {names} names",
            severity=Severity.WARNING,
            hint="is the disk failing? restart the services that use it: they may have the old bytes open",
        )
        return True
