"""Keeping logs bounded, and saying who writes more than its share keeps."""

from __future__ import annotations

import contextlib

from nebh.executor.context import Context
from nebh.executor.strain import StrainKeeper
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.quantities import render_size
from nebh.model.work import InstanceRow

QUIET = 600.0
STEADY = 5.0
FAST = 0.5
FLOOD = 4 << 20  # bytes within STEADY seconds; what conmon is let through is not much more

Mark = tuple[float, int]


class LogKeeper:
    """Looks at every instance's log. One event per instance and ten minutes at most: an event for each
    flooded second would be a flood of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last: dict[str, Mark] = {}
        self._since: dict[str, Mark] = {}
        self._said: dict[str, float] = {}
        self._strain = StrainKeeper(context)

    def run(self) -> None:
        """Look until the executor stops: every 5 s, and every half second while somebody prints so fast that lines
        would be lost in between."""
        pause = STEADY
        while not self._context.stopping.wait(pause):
            with contextlib.suppress(NebhError, OSError):
                pause = self.look()
            with contextlib.suppress(NebhError, OSError):
                self._strain.look()

    def look(self) -> float:
        """Rotate all logs, say who floods; return the seconds until the next look."""
        rows = self._context.work.instances()
        pause = STEADY
        for row in rows:
            with contextlib.suppress(NebhError, OSError):
                pause = min(pause, self._look(row))
        names = {row.id for row in rows}
        for known in (self._last, self._since, self._said):
            for gone in known.keys() - names:
                del known[gone]
        return pause

    def _look(self, row: InstanceRow) -> float:
        containers = self._context.drivers.containers
        containers.rotate_logs(row.id)
        policy = self._context.accepted.policy(row.service)
        now = (self._context.clock.monotonic(), containers.log_written(row.id))
        last, since = self._last.get(row.id, now), self._since.setdefault(row.id, now)
        self._last[row.id] = now
        if now[1] < since[1]:  # made anew: it counts from 0 again
            self._since[row.id] = now
        elif now[0] - since[0] >= STEADY * 0.9:
            self._since[row.id] = now
            if policy is not None and now[1] - since[1] > min(policy.limits.log // 2, FLOOD):
                self._say(row, now[1] - since[1], share=policy.limits.log)
        elapsed, grown = now[0] - last[0], now[1] - last[1]
        share = policy.limits.log if policy is not None else 0
        return FAST if elapsed > 0 and grown / elapsed * STEADY > share / 10 else STEADY

    def _say(self, row: InstanceRow, written: int, *, share: int) -> None:
        now = self._context.clock.monotonic()
        if now - self._said.get(row.id, -QUIET) < QUIET:
            return
        self._said[row.id] = now
        self._context.event(
            "instance.log-flood",
            f"{row.id} floods its log: {render_size(written)} within seconds; only the newest {render_size(share)} stay",
            severity=Severity.WARNING,
            service=row.service,
            hint=f"have {row.service} say less, or raise limits.log in its spec",
            facts={"instance": row.id},
        )
