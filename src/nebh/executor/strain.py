"""Saying who is at its bounds: a flood is held by limits, but somebody should hear whose it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from nebh.executor.context import Context
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.instance import Strain
from nebh.model.work import InstanceRow

QUIET = 600.0
STEADY = 5.0
MANY_SOCKETS = 2048  # half of the connections that one instance may hold


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """Something to say of an instance: kind of the event, what is seen, what would help."""

    kind: str
    seen: str
    hint: str


class StrainKeeper:
    """Looks at every instance at most every five seconds. One event per instance, kind and ten minutes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next = 0.0
        self._before: dict[str, Strain] = {}
        self._said: dict[tuple[str, str], float] = {}

    def look(self) -> None:
        """Look, when it is time again."""
        now = self._context.clock.monotonic()
        if now < self._next:
            return
        self._next = now + STEADY
        rows = self._context.work.instances()
        for row in rows:
            with contextlib.suppress(NebhError, OSError):
                self._look(row, now)
        names = {row.id for row in rows}
        for gone in self._before.keys() - names:
            del self._before[gone]
        self._said = {key: at for key, at in self._said.items() if key[0] in names}

    def _look(self, row: InstanceRow, now: float) -> None:
        found = self._context.drivers.containers.strain(row.id)
        before = self._before.get(row.id, found)
        self._before[row.id] = found
        for one in complaints(row.service, before, found):
            if now - self._said.get((row.id, one.kind), -QUIET) >= QUIET:
                self._said[row.id, one.kind] = now
                self._context.event(
                    one.kind,
                    f"{row.id} {one.seen}",
                    severity=Severity.WARNING,
                    service=row.service,
                    hint=one.hint,
                    facts={"instance": row.id},
                )


def complaints(service: str, before: Strain, now: Strain) -> Iterator[Complaint]:
    """Yield what is to be said of an instance after two looks."""
    spec = f"in the spec of {service}"
    if now.process_limit and (now.processes >= now.process_limit or now.refused > before.refused):
        yield Complaint(
            kind="instance.process-flood",
            seen=f"has all the {now.process_limit} processes it may have; it gets no more",
            hint=f"find out what it starts, or raise limits.pids {spec}",
        )
    if now.killed > before.killed:
        yield Complaint(
            kind="instance.memory-flood",
            seen=f"wants more memory than its limit: {now.killed - before.killed} of its processes were killed",
            hint=f"raise limits.memory {spec}",
        )
    for path, what in (*((path, "data") for path in now.full), *((path, "files") for path in now.crowded)):
        field = "limits.shm" if path == "/dev/shm" else "limits.tmp"
        yield Complaint(
            kind=f"instance.{field.removeprefix('limits.')}-{'full' if what == 'data' else 'crowded'}",
            seen=f"has filled {path} with {what}",
            hint=f"have it clean up, or raise {field} {spec}",
        )
    if now.descriptor_limit and now.descriptors * 20 >= now.descriptor_limit * 19:
        yield Complaint(
            kind="instance.descriptor-flood",
            seen=f"has a process with {now.descriptors} open files and sockets, of {now.descriptor_limit} it may have",
            hint=f"have {service} close what it opens; it may raise its own limit to 4096",
        )
    if now.sockets >= MANY_SOCKETS:
        yield Complaint(
            kind="instance.connection-flood",
            seen=f"holds {now.sockets} sockets; new connections are refused at 4096",
            hint=f"have {service} close or reuse its connections",
        )
