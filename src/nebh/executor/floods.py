"""Keeping logs bounded, and saying who writes more than its share keeps."""

from __future__ import annotations

import contextlib

from nebh.executor.context import Context
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.quantities import render_size
from nebh.model.work import InstanceRow

QUIET = 600.0
FLOOD = 4 << 20  # bytes between two looks; what conmon is let through is not much more


class LogKeeper:
    """Looks at every instance's log at each `look`. One event per instance and ten minutes at most: an event for each
    flooded second would be a flood of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._written: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def look(self) -> None:
        """Rotate all logs; say which instances have flooded theirs since the last look."""
        rows = self._context.work.instances()
        for row in rows:
            with contextlib.suppress(NebhError, OSError):
                self._look(row)
        names = {row.id for row in rows}
        for known in (self._written, self._said):
            for gone in known.keys() - names:
                del known[gone]

    def _look(self, row: InstanceRow) -> None:
        containers = self._context.drivers.containers
        containers.rotate_logs(row.id)
        written = containers.log_written(row.id)
        before = self._written.get(row.id, 0)
        self._written[row.id] = written
        policy = self._context.accepted.policy(row.service)
        if policy is not None and written - before > min(policy.limits.log // 2, FLOOD):
            self._say(row, written - before, share=policy.limits.log)

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
