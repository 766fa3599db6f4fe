"""How full volumes and their storage are: measured when somebody asks, and looked at before anybody finds out by an error."""

from __future__ import annotations

import contextlib
from typing import Final

from nebh.executor.context import Context
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.kept import VolumeRow
from nebh.model.quantities import render_size
from nebh.model.question import MeasuredVolume
from nebh.model.stored import stored_name
from nebh.planning.fullness import Fullness, judge_storage, judge_volume

PAUSE: Final = 60.0
SHARE: Final = 100
"""Measuring takes at most one part in so many of the time: where every file is looked at it can be long."""


def measure_volume(context: Context, row: VolumeRow) -> MeasuredVolume:
    """Return a volume's size now. Raises what the driver says."""
    stored = stored_name(service=row.service, volume=row.name, replica=row.replica)
    found = context.drivers.volumes.usage(stored)
    return MeasuredVolume(
        service=row.service,
        replica=row.replica,
        name=row.name,
        used=found.used,
        quota=found.quota,
        exclusive=found.exclusive or {},
        measured_at=context.clock.now_ms(),
    )


class UsageKeeper:
    """Looks at every volume about once a minute. An event when one becomes full, and again only after it was not."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._said: dict[str, Fullness] = {}

    def run(self) -> None:
        """Look until the executor stops."""
        pause = PAUSE
        while not self._context.stopping.wait(pause):
            began = self._context.clock.monotonic()
            with contextlib.suppress(NebhError, OSError):
                self.look()
            pause = max(PAUSE, SHARE * (self._context.clock.monotonic() - began))

    def look(self) -> None:
        """Measure everything, and say what is nearly full."""
        rows = self._context.volumes.volumes()
        if not rows:
            return
        for row in rows:
            if not self._context.stopping.is_set():
                with contextlib.suppress(NebhError, OSError):  # a storage that is gone is said elsewhere
                    self._judge(row)
        with contextlib.suppress(NebhError, OSError):
            self._judge_storage()

    def _judge(self, row: VolumeRow) -> None:
        found = measure_volume(self._context, row)
        key = f"{row.service}/{row.name}/{row.replica}"
        level = judge_volume(used=found.used, quota=found.quota, before=self._said.get(key, Fullness.FINE))
        if self._rises(key, level):
            self._context.event(
                f"volume.{level.value}",
                f"{row.service}: volume {row.name} of allocation {row.replica} holds {render_size(found.used)} of"
                f" {render_size(found.quota)}",
                severity=Severity.ALARM if level is Fullness.FULL else Severity.WARNING,
                service=row.service,
                hint=f"deploy {row.service} with a larger `volumes.{row.name}.size`, or remove something in it:"
                f" `nebh volume files {row.service}/{row.name}` shows what there is",
                facts={"volume": row.name, "used": str(found.used), "quota": str(found.quota)},
            )

    def _judge_storage(self) -> None:
        room = self._context.drivers.volumes.room()
        level = judge_storage(room, before=self._said.get("", Fullness.FINE))
        if self._rises("", level):
            self._context.event(
                f"storage.{level.value}",
                f"the storage of volumes has {render_size(room.free + room.growth)} left of"
                f" {render_size(room.size + room.growth)}",
                severity=Severity.ALARM if level is Fullness.FULL else Severity.WARNING,
                hint="`nebh volume usage` shows what snapshots hold, `nebh volume delete-snapshot` frees it; or give the"
                " storage more room (`storage` in node.json)",
                facts={"free": str(room.free), "size": str(room.size)},
            )

    def _rises(self, key: str, level: Fullness) -> bool:
        before = self._said.get(key, Fullness.FINE)
        self._said[key] = level
        order = tuple(Fullness)
        return order.index(level) > order.index(before)
