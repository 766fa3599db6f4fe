"""Services whose storage is gone: they stand still or end, as declared, and come back by themselves."""

from __future__ import annotations

import contextlib
import math
import threading
from pathlib import Path

from nebh.executor.context import Context
from nebh.executor.data import Owned, owned
from nebh.executor.effects import hot_effect
from nebh.executor.instances import release_of
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.volume import Unavailable
from nebh.model.work import InstanceRow, Role


class StorageWatch:
    """Looks at the storage of volumes every few seconds. `is_gone` holds restarts back."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._why = ""
        self._warned = False
        self._ending: dict[str, float] = {}

    @property
    def is_gone(self) -> bool:
        """Whether services with data wait for their storage."""
        return bool(self._why)

    def look(self) -> tuple[InstanceRow, ...]:
        """Do what is to be done now; return the instances that are to be started again."""
        with self._lock:
            if self._why:
                self._end_slow(self._context.clock.monotonic())
                return self._try_again()
            why = self._context.look_at_storage()
            if why:
                self._why = why
                self._halt(why)
            else:
                self._warn(*self._context.storage_warning())
            return ()

    def _warn(self, what: str, hint: str) -> None:
        """Say once what should be done something about, until it is over."""
        if what and not self._warned:
            self._context.tell("storage.trouble", what, severity=Severity.ALARM, hint=hint)
        self._warned = bool(what)

    def _halt(self, why: str) -> None:
        rows = self._with_data()
        names = ", ".join(sorted({one.service for one in rows})) or "none"
        self._context.tell(
            "storage.gone",
            f"the storage of volumes cannot be used: {why}; services that stand still or were ended: {names}",
            severity=Severity.ALARM,
            hint="look at the disk; they come back by themselves when it is there again",
        )
        for row in rows:
            freezes = self._freezes(row)
            with hot_effect("storage.halt"):  # nothing is journalled: the journal may lie on the same disk
                if freezes:
                    self._context.drivers.containers.freeze(row.id)
                else:
                    self._ask_to_end(row)

    def _ask_to_end(self, row: InstanceRow) -> None:
        """As a stop does; who does not end in its time is ended at a later look, which is as long for everybody."""
        stop = release_of(self._context, row).stop
        self._ending[row.id] = self._context.clock.monotonic() + stop.grace / 1000
        self._context.drivers.containers.signal(row.id, stop.signal)

    def _end_slow(self, now: float) -> None:
        for name in [name for name, end in self._ending.items() if end <= now]:
            del self._ending[name]
            with contextlib.suppress(NebhError), hot_effect("storage.halt"):  # it has ended in its time
                self._context.drivers.containers.signal(name, "KILL")

    def _try_again(self) -> tuple[InstanceRow, ...]:
        try:
            self._context.storage()
            self._context.drivers.volumes.check()
        except (NebhError, OSError):
            return ()
        self._why = ""
        self._end_slow(math.inf)  # it may be on its way out, and is started anew
        rows = self._with_data()
        for row in rows:
            if self._freezes(row):
                self._go_on(row)
        self._context.tell(
            "storage.back", "the storage of volumes can be used again", severity=Severity.WARNING, hint=""
        )
        return rows

    def _go_on(self, row: InstanceRow) -> None:
        """Let a frozen instance go on where it sees the volumes that there are; else it is to be made anew."""
        containers = self._context.drivers.containers
        alive = self._sees_volumes(row)
        with hot_effect("storage.back"):
            containers.thaw(row.id)
            if not alive:
                containers.signal(row.id, "KILL")

    def _sees_volumes(self, row: InstanceRow) -> bool:
        pid = self._context.drivers.containers.observe(row.id).pid
        try:
            return all(
                Path(f"/proc/{pid}/root{one.part.mount.path}").stat().st_dev
                == self._context.drivers.volumes.path(one.stored).stat().st_dev
                for one in self._parts(row)
            )
        except (NebhError, OSError):
            return False

    def _with_data(self) -> tuple[InstanceRow, ...]:
        volumes = {one.service for one in self._context.volumes.volumes()}
        rows = self._context.work.instances()
        return tuple(one for one in rows if one.service in volumes and one.role is Role.SERVING)

    def _freezes(self, row: InstanceRow) -> bool:
        return all(one.part.bound.unavailable is Unavailable.FREEZE for one in self._parts(row))

    def _parts(self, row: InstanceRow) -> tuple[Owned, ...]:
        policy = self._context.policy_of(row)
        found = owned(self._context, policy, release_of(self._context, row), replicas=row.replica + 1)
        return tuple(one for one in found if one.replica == row.replica)
