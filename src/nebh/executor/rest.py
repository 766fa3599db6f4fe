"""Writers come to rest for a moment, so that what is copied of their data outside an update is of one moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.instances import release_of
from nebh.model.errors import Failed, NebhError
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.stored import Ability
from nebh.model.work import InstanceRow, Role


@contextlib.contextmanager
def at_rest(context: Context, service: str, replicas: Iterable[int], *, prefix: str) -> Iterator[None]:
    """Let no instance of these allocations write: by the programs that its release declares, and frozen where it declares
    none or the storage needs longer than an instant. Whatever happens they go on; after a crash, `wake_all` sees to it.
    Takes the lock of the service's data. Raises Failed."""
    with context.data_lock(service):
        rows = _writers(context, service, frozenset(replicas))
        try:
            for row in rows:
                context.at_rest.add(row.id)
                context.volumes.note_resting(row.id)
                with effect(context, 0, f"{prefix}.rest"):
                    _rest(context, row)
            yield
        finally:
            for row in rows:
                _go_on(context, row, prefix=prefix)


def wake_all(context: Context) -> None:
    """After a start, before all else: whoever an earlier executor brought to rest goes on."""
    for instance in context.volumes.resting():
        row = context.work.instance(instance)
        if row is None:
            context.volumes.forget_resting(instance)
        else:
            _go_on(context, row, prefix="data")


def _writers(context: Context, service: str, replicas: frozenset[int]) -> tuple[InstanceRow, ...]:
    observe = context.drivers.containers.observe
    rows = [one for one in context.work.instances(service) if one.replica in replicas]
    return tuple(one for one in rows if one.role is not Role.LEAVING and observe(one.id).status is Status.RUNNING)


def _is_frozen(context: Context, row: InstanceRow) -> bool:
    return release_of(context, row).data.quiesce is None or Ability.LIVE not in context.drivers.volumes.abilities


def _rest(context: Context, row: InstanceRow) -> None:
    quiesce = release_of(context, row).data.quiesce
    if quiesce is not None and quiesce.before:
        result = context.drivers.containers.check(row.id, quiesce.before, quiesce.timeout)
        if not result.ok:
            raise Failed(
                f"cannot bring {row.id} to rest: data.quiesce.before failed: {result.detail}",
                hint=f"`nebh logs {row.service}` shows what it said; nothing was copied",
            )
    if _is_frozen(context, row):
        context.drivers.containers.freeze(row.id)


def _go_on(context: Context, row: InstanceRow, *, prefix: str) -> None:
    try:
        with effect(context, 0, f"{prefix}.resume"):
            if context.drivers.containers.observe(row.id).status is Status.RUNNING:
                _resume(context, row)
    except NebhError as error:
        context.tell(
            "data.still-quiet",
            f"{row.id} could not be told to go on, it may still hold its writers back: {error}",
            severity=Severity.ALARM,
            service=row.service,
            hint=f"`nebh restart {row.service}` begins it anew",
        )
    finally:
        context.at_rest.discard(row.id)
    context.volumes.forget_resting(row.id)


def _resume(context: Context, row: InstanceRow) -> None:
    if _is_frozen(context, row):
        context.drivers.containers.thaw(row.id)
    quiesce = release_of(context, row).data.quiesce
    if quiesce is not None and quiesce.after:
        result = context.drivers.containers.check(row.id, quiesce.after, quiesce.timeout)
        if not result.ok:
            raise Failed(f"data.quiesce.after failed: {result.detail}")
