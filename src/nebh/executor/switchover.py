"""STARTING and the cut-over: the only moment that users could feel."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import dataclass
from functools import partial

from nebh.executor.data import begin_writing, stands_alone
from nebh.executor.dataplane import with_roles
from nebh.executor.effects import effect, hot_effect
from nebh.executor.health import is_proven, wait_ready
from nebh.executor.hooks import run_hooks
from nebh.executor.instances import build
from nebh.executor.prepare import discard
from nebh.executor.run import Run
from nebh.host import marks
from nebh.model.errors import Broken
from nebh.model.network import NetworkRules, SlotChange, SlotState
from nebh.model.policy import NetPolicy, Policy
from nebh.model.transaction import State
from nebh.model.volume import HookPoint
from nebh.model.work import InstanceRow, Role, TransactionRow
from nebh.planning import dataplane

Rows = tuple[InstanceRow, ...]


def prepared(run: Run, row: TransactionRow) -> TransactionRow | None:
    """PREPARED: go on when the controller said `run`; otherwise wait for it (None)."""
    if run.cancelled():
        discard(run, row)
        return run.move(row, State.DROPPED, reason=run.cancelled())
    return None if row.phase == "prepare" else run.move(row, State.STARTING)


def starting(run: Run, row: TransactionRow) -> TransactionRow:
    """STARTING: start the new side, wait until it is ready, cut over."""
    new, old = run.sides(row)
    alone = bool(new) and stands_alone(run.context, row)
    with run.context.data_of(row.service) if alone else contextlib.nullcontext():
        if alone or (new and not _overlaps(run, row)):
            _yield_place(run, row, old)
        if alone:
            _hand_over_data(run, row, new)
    for one in new:
        with effect(run.context, row.id, "start.start"):
            marks.mark("start.begin")
            run.context.drivers.containers.start(one.id)
            marks.mark("start.done")
        run.supervisor.watch(one.id)
    ahead = compute_switch(run, row, new=new, old=old)
    proven = is_proven(run.context, row)
    for one in new:
        result = wait_ready(run.context, one, cancelled=run.cancelled, proven=proven)
        if not result.ok:
            return run.move(row, State.ROLLING_BACK, reason=result.detail)
    run_hooks(run, row, HookPoint.BEFORE_SWITCH, new)
    if run.cancelled():
        return run.move(row, State.ROLLING_BACK, reason=run.cancelled())
    return cut_over(run, row, new=new, old=old, ahead=ahead, journal_first=alone)


def _hand_over_data(run: Run, row: TransactionRow, new: Rows) -> None:
    """Nobody writes: keep the data as it is, convert it, and let the new side have it."""
    context = run.context
    release = context.accepted.release(row.service, row.epoch, row.to_counter)
    if release is None:
        raise Broken(f"cannot find release {row.to_counter} of {row.service} among the accepted ones")
    migrated = begin_writing(context, row, release, new=new) and run_hooks(run, row, HookPoint.MIGRATE, new)
    if migrated or row.kind == "restore":  # what they were made with is not the volume any more
        for one in new:
            build(context, one, prefix="start")


def _overlaps(run: Run, row: TransactionRow) -> bool:
    release = run.context.accepted.release(row.service, row.epoch, row.to_counter)
    return release is None or release.update.overlap


def _yield_place(run: Run, row: TransactionRow, old: Rows) -> None:
    """On a host too small for both sides: the old one ends before the new one starts."""
    policy = run.context.effective(row.service)
    with effect(run.context, row.id, "start.yield"):
        run.dataplane.switch(dataplane.slot_changes(policy=policy, ready=(), drain=old, then=SlotState.DRAIN))
        run.sweeper.quiesce(old)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """All that a cut-over, or a way back, will do, computed from the journal as it was when it had seen `at` changes."""

    at: int
    policy: Policy
    roles: dict[str, Role]
    changes: tuple[SlotChange, ...]
    rules: NetworkRules
    brings_policy: bool = False


def compute_switch(run: Run, row: TransactionRow, *, new: Rows, old: Rows) -> Switch:
    """Return what would be done now."""
    context = run.context
    at = context.database.changes
    policy = context.effective(row.service)
    roles = {one.id: Role.SERVING for one in new} | {one.id: Role.OLD for one in old}
    return Switch(
        at=at,
        policy=policy,
        roles=roles,
        changes=dataplane.slot_changes(policy=policy, ready=new, drain=old),
        rules=run.dataplane.rules(with_roles(context.work.instances(), roles)),
        brings_policy=context.brings_policy(row),
    )


def cut_over(
    run: Run, row: TransactionRow, *, new: Rows, old: Rows, ahead: Switch, journal_first: bool = False
) -> TransactionRow:
    """Let new requests go to the new side. Everything is computed before, while the new side became ready (and again
    where the journal has changed since); the journal follows in one commit. journal_first: of a service with data it
    goes before, or a crash would take back what a client was told has been written."""
    context = run.context
    marks.mark("cutover.begin")
    with run.dataplane.lock:  # from the look at the journal to its next commit nobody else changes rules
        do = ahead if ahead.at == context.database.changes else compute_switch(run, row, new=new, old=old)
        take_effect = partial(context.accepted.take_effect, row.service) if do.brings_policy else None
        marks.mark("cutover.computed")
        moved = row
        if journal_first:
            moved = run.move(
                row, State.CHECKING, roles=do.roles, via=State.CUTTING_OVER, cutover=True, also=take_effect
            )
        gc.disable()
        try:
            with hot_effect("cutover.switch"):
                run.dataplane.switch(do.changes)
            marks.mark("cutover.switched")
            with hot_effect("cutover.endpoints"):
                run.dataplane.swap_endpoints(do.rules)
            marks.mark("cutover.endpoints")
            if not journal_first:
                moved = run.move(
                    row, State.CHECKING, roles=do.roles, via=State.CUTTING_OVER, cutover=True, also=take_effect
                )
            marks.mark("cutover.journalled")
        finally:
            gc.enable()
    settle(run, moved, prefix="cutover", routes_before=do.policy.net)
    return moved


def settle(run: Run, row: TransactionRow, *, prefix: str, routes_before: NetPolicy) -> None:
    """After the roles are journalled: names, changed routes, and the file that a cold start of the ingress reads."""
    with effect(run.context, row.id, f"{prefix}.names"):
        run.dataplane.apply_names()
    now = run.context.accepted.effective(row.service)
    with effect(run.context, row.id, f"{prefix}.record"):
        if now is not None and now.net != routes_before:
            run.dataplane.configure_ingress()
        run.dataplane.record_ingress()
