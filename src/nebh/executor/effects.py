"""Every effect of a transaction has a name, a journal row around it, and a fault point before and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nebh.executor.context import Context
from nebh.host import faults
from nebh.model.errors import Broken

EFFECTS: tuple[str, ...] = (
    "prepare.manifest",
    "prepare.objects",
    "prepare.materialise",
    "prepare.sync",
    "prepare.config",
    "prepare.attach",
    "prepare.volumes",
    "prepare.create",
    "prepare.rules",
    "prepare.slots",
    "start.yield",
    "data.snapshot",
    "data.restore",
    "data.drop",
    "data.rest",
    "data.resume",
    "data.clone",
    "data.resize",
    "start.attach",
    "start.create",
    "hook.attach",
    "hook.create",
    "hook.run",
    "hook.stop",
    "storage.halt",
    "storage.back",
    "start.start",
    "cutover.switch",
    "cutover.endpoints",
    "cutover.names",
    "cutover.record",
    "back.yield",
    "back.switch",
    "back.endpoints",
    "back.revive",
    "back.names",
    "back.record",
    "sweep.retire",
    "sweep.stop",
    "sweep.delete",
    "sweep.detach",
    "sweep.rules",
    "sweep.slots",
    "sweep.prune",
    "revive.delete",
    "revive.attach",
    "revive.create",
    "revive.start",
    "backup.rest",
    "backup.snapshot",
    "backup.resume",
    "backup.send",
    "backup.forget",
    "backup.drop",
    "backup.fetch",
    "reload.give",
    "reload.tell",
    "back.give",
    "back.tell",
    "back.end",
    "rehearse.rest",
    "rehearse.clone",
    "rehearse.resume",
    "rehearse.rules",
    "rehearse.attach",
    "rehearse.create",
    "rehearse.start",
    "rehearse.delete",
    "rehearse.drop",
    "rehearse.detach",
    "rotate.give",
    "rotate.signal",
    "certificate.install",
)
STATE_POINTS: tuple[str, ...] = tuple(
    f"state.{name}"
    for name in (
        "preparing",
        "prepared",
        "starting",
        "cutting_over",
        "checking",
        "healthy",
        "committed",
        "rolling_back",
        "rolled_back",
        "refused",
        "dropped",
    )
)


def fault_points() -> tuple[str, ...]:
    """Return the name of every fault point there is."""
    return tuple(f"{name}.{side}" for name in (*EFFECTS, *STATE_POINTS) for side in ("before", "after"))


@contextmanager
def effect(context: Context, transaction: int, name: str) -> Iterator[None]:
    """Journal that `name` is about to happen, let it, journal that it has."""
    _check(name)
    number = context.work.effect_begins(transaction, name, now=context.clock.now_ms())
    faults.point(f"{name}.before")
    yield
    faults.point(f"{name}.after")
    context.work.effect_ended(number, now=context.clock.now_ms())


@contextmanager
def hot_effect(name: str) -> Iterator[None]:
    """Fault points alone, for the path that users feel: the journal follows in one commit."""
    _check(name)
    faults.point(f"{name}.before")
    yield
    faults.point(f"{name}.after")


def _check(name: str) -> None:
    if name not in EFFECTS:
        raise Broken(f"cannot run the effect {name}: it is not in the list of effects")
