"""The writer comes to rest for a moment, so that a snapshot outside an update is one state of the data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.instances import release_of
from nebh.model.errors import Failed, NebhError
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.work import InstanceRow, Role


@contextlib.contextmanager
def at_rest(context: Context, service: str) -> Iterator[None]:
    """Have every instance of a service rest: by the program that its release declares, else frozen. Under the service's
    data lock. Raises Failed; whatever happens, they go on."""
    rows = _writers(context, service)
    try:
        for row in rows:
            with effect(context, 0, "backup.rest"):
                _rest(context, row)
        yield
    finally:
        go_on(context, service)


def go_on(context: Context, service: str) -> None:
    """Let the instances go on, also those that an executor left resting when it was killed."""
    for row in _writers(context, service):
        try:
            with effect(context, 0, "backup.resume"):
                _resume(context, row)
        except NebhError as error:
            context.tell(
                "backup.writer-rests",
                f"{row.id} could not be told to go on after a snapshot: {error}",
                severity=Severity.ALARM,
                service=service,
                hint=f"`nebh restart {service}` starts it anew",
            )


def _writers(context: Context, service: str) -> tuple[InstanceRow, ...]:
    observe = context.drivers.containers.observe
    rows = [one for one in context.work.instances(service) if one.role is not Role.LEAVING]
    return tuple(one for one in rows if observe(one.id).status is Status.RUNNING)


def _rest(context: Context, row: InstanceRow) -> None:
    quiesce = release_of(context, row).data.quiesce
    if quiesce is None:
        context.drivers.containers.freeze(row.id)
    elif quiesce.before:
        result = context.drivers.containers.check(row.id, quiesce.before, quiesce.timeout)
        if not result.ok:
            raise Failed(f"cannot have {row.id} rest: `{' '.join(quiesce.before)}` failed: {result.detail}")


def _resume(context: Context, row: InstanceRow) -> None:
    quiesce = release_of(context, row).data.quiesce
    if quiesce is None:
        context.drivers.containers.thaw(row.id)
    elif quiesce.after:
        result = context.drivers.containers.check(row.id, quiesce.after, quiesce.timeout)
        if not result.ok:
            raise Failed(f"`{' '.join(quiesce.after)}` failed: {result.detail}")
