"""ROLLING_BACK: the same way in the other direction. Whatever was done already is found done and left so."""

from __future__ import annotations

from nebh.executor.dataplane import with_roles
from nebh.executor.effects import effect, hot_effect
from nebh.executor.run import Run
from nebh.executor.switchover import settle
from nebh.host import marks
from nebh.model.instance import Status
from nebh.model.network import SlotState
from nebh.model.transaction import State
from nebh.model.work import InstanceRow, TransactionRow
from nebh.planning import dataplane, local

CRASHED = "the executor was restarted before the cut-over"
Rows = tuple[InstanceRow, ...]


def rolling_back(run: Run, row: TransactionRow) -> TransactionRow:
    """ROLLING_BACK: traffic to the old side, then journal, then the new side leaves."""
    context = run.context
    marks.mark("back.begin")
    new, old = run.sides(row)
    _revive(run, row, old)
    policy = context.effective(row.service)
    roles = local.roles_after_rollback(new, old)
    changes = dataplane.slot_changes(
        policy=policy, ready=old, drain=new, then=SlotState.DRAIN if old else SlotState.MAINT
    )
    with run.dataplane.lock:  # from the look at the journal to its next commit nobody else changes rules
        rules = run.dataplane.rules(with_roles(context.work.instances(), roles))
        marks.mark("back.computed")
        with hot_effect("back.switch"):
            run.dataplane.switch(changes)
        marks.mark("back.switched")
        with hot_effect("back.endpoints"):
            run.dataplane.swap_endpoints(rules)
        ended = run.move(row, State.ROLLED_BACK, roles=roles, also=lambda: _note(run, row))
    marks.mark("back.journalled")
    settle(run, ended, prefix="back", routes_before=policy.net)
    run.sweeper.sweep(tuple(one.id for one in new))
    return ended


def _note(run: Run, row: TransactionRow) -> None:
    """The release is marked, unless it was not at fault, and its policy does not take effect."""
    accepted = run.context.accepted
    if row.kind == "deploy" and not row.reason.startswith(CRASHED):
        accepted.mark_failed(row.service, row.epoch, row.to_counter, why=row.reason)
    accepted.fall_back(row.service)


def _revive(run: Run, row: TransactionRow, old: Rows) -> None:
    """An old instance that is gone (no overlap, a reboot) is started before traffic goes to it."""
    for one in old:
        if run.context.drivers.containers.observe(one.id).status is not Status.RUNNING:
            with effect(run.context, row.id, "back.revive"):
                run.supervisor.revive(one)
