"""Going back: the same way in the other direction. Whatever was done already is found done and left so."""

from __future__ import annotations

import gc
from collections.abc import Callable

from nebh.executor.data import decide_back, drop_unused, end_writing, say_back, stands_alone
from nebh.executor.dataplane import with_roles
from nebh.executor.effects import effect, hot_effect
from nebh.executor.run import Run
from nebh.executor.switchover import Switch, settle
from nebh.host import marks
from nebh.model.instance import Status
from nebh.model.network import SlotState
from nebh.model.policy import NetPolicy
from nebh.model.transaction import State
from nebh.model.work import InstanceRow, TransactionRow
from nebh.planning import dataplane, local

CRASHED = "the executor was restarted before the cut-over"
Rows = tuple[InstanceRow, ...]


def rolling_back(run: Run, row: TransactionRow) -> TransactionRow:
    """ROLLING_BACK: traffic to the old side, then journal, then the new side leaves."""
    new, old = run.sides(row)
    if stands_alone(run.context, row):
        with run.context.data_lock(row.service):
            row = _give_data_back(run, row, new)
    _revive(run, row, old)
    with run.dataplane.lock:  # from the look at the journal to its next commit nobody else changes rules
        marks.mark("back.begin")
        way = compute_way_back(run, row, new=new, old=old)
        ended = swing_back(run, row, way)
    leave(run, ended, new=new, routes_before=way.policy.net)
    if ended.data:
        say_back(run.context, ended)
        drop_unused(run.context, ended)
    return ended


def _give_data_back(run: Run, row: TransactionRow, new: Rows) -> TransactionRow:
    """The new side ends, then the data becomes what the old one is to find. What is done with it is journalled first:
    whoever finishes this after a crash does the same."""
    context = run.context
    choice = decide_back(context, row)
    if not row.data:
        row = context.work.set_data(row.id, choice.value)
    with effect(context, row.id, "back.yield"):
        policy = context.effective(row.service)
        run.dataplane.switch(dataplane.slot_changes(policy=policy, ready=(), drain=new, then=SlotState.DRAIN))
        run.sweeper.quiesce(new)
    end_writing(context, row, choice=choice, new=new)
    return row


def compute_way_back(run: Run, row: TransactionRow, *, new: Rows, old: Rows) -> Switch:
    """Return what going back would do now."""
    context = run.context
    at = context.database.changes
    policy = context.effective(row.service)
    roles = local.roles_after_rollback(new, old)
    return Switch(
        at=at,
        policy=policy,
        roles=roles,
        changes=dataplane.slot_changes(
            policy=policy, ready=old, drain=new, then=SlotState.DRAIN if old else SlotState.MAINT
        ),
        rules=run.dataplane.rules(with_roles(context.work.instances(), roles)),
    )


def swing_back(
    run: Run,
    row: TransactionRow,
    way: Switch,
    *,
    reason: str = "",
    via: State | None = None,
    also: Callable[[], None] | None = None,
) -> TransactionRow:
    """Switch, then journal the end (with `via`, `reason` and `also`) in one commit. Call it with the dataplane's lock."""

    def note() -> None:
        if also is not None:
            also()
        note_back(run, row, reason or row.reason)

    marks.mark("back.computed")
    gc.disable()
    try:
        with hot_effect("back.switch"):
            run.dataplane.switch(way.changes)
        marks.mark("back.switched")
        with hot_effect("back.endpoints"):
            run.dataplane.swap_endpoints(way.rules)
        ended = run.move(row, State.ROLLED_BACK, reason=reason, roles=way.roles, via=via, also=note)
        marks.mark("back.journalled")
    finally:
        gc.enable()
    return ended


def leave(run: Run, ended: TransactionRow, *, new: Rows, routes_before: NetPolicy) -> None:
    """What follows the end: names, routes, the new side goes."""
    settle(run, ended, prefix="back", routes_before=routes_before)
    run.sweeper.sweep(tuple(one.id for one in new))


def note_back(run: Run, row: TransactionRow, reason: str) -> None:
    """The release is marked, unless it was not at fault, and its policy does not take effect."""
    accepted = run.context.accepted
    if row.kind == "deploy" and not reason.startswith(CRASHED):
        accepted.mark_failed(row.service, row.epoch, row.to_counter, why=reason)
    accepted.fall_back(row.service)


def runs(run: Run, one: InstanceRow) -> bool:
    """Tell whether an instance runs this moment."""
    return run.context.drivers.containers.observe(one.id).status is Status.RUNNING


def _revive(run: Run, row: TransactionRow, old: Rows) -> None:
    """An old instance that is gone (no overlap, a reboot) is started before traffic goes to it."""
    for one in old:
        if not runs(run, one):
            with effect(run.context, row.id, "back.revive"):
                run.supervisor.revive(one, back=True)
