"""CHECKING, HEALTHY, COMMITTED: watching the new side, and keeping it."""

from __future__ import annotations

import math

from nebh.executor.data import decide_back, tidy_snapshots
from nebh.executor.health import Bake, is_proven
from nebh.executor.run import Run
from nebh.executor.trial import Trial
from nebh.model.event import Severity
from nebh.model.release import Release
from nebh.model.service import OnFailure
from nebh.model.transaction import State
from nebh.model.work import Role, TransactionRow, Wanted
from nebh.planning import local
from nebh.planning.data import DataChoice

AGENT_PATIENCE = 60.0
"""For how many seconds longer a trial waits for checks that nobody could make, because the agent is away."""


def checking(run: Run, row: TransactionRow) -> TransactionRow | None:
    """CHECKING: bake. None when the executor is stopping: the next one begins the bake again."""
    context = run.context
    release = context.accepted.release(row.service, row.epoch, row.to_counter)
    if row.kind in local.ENDING or release is None:
        return run.move(row, State.HEALTHY)
    new, _ = run.sides(row)
    if run.recovered:
        for one in new:
            run.supervisor.revive(one)
    trial = Trial(run, row)
    trial.look()
    run.offer(trial.turn_back)
    try:
        ended = _watch(run, row, release, trial, Bake(context, release, new, live=row.live))
    finally:
        run.offer(None)
    if ended is not None:
        trial.clear_up(ended)
    return ended


def _watch(run: Run, row: TransactionRow, release: Release, trial: Trial, bake: Bake) -> TransactionRow | None:
    context = run.context
    end = context.clock.monotonic() + release.update.bake / 1000
    proven = is_proven(context, row)
    while True:
        if context.stopping.is_set():
            return None
        if run.cancelled():
            return _failed(run, row, trial, run.cancelled(), on_failure=OnFailure.ROLLBACK)
        trial.look()
        reason = bake.step()
        if reason:
            return _failed(run, row, trial, reason, on_failure=release.update.on_failure)
        late = context.clock.monotonic() - end
        if late >= 0 and (proven or not bake.unseen):
            return trial.end(State.HEALTHY)
        if late >= AGENT_PATIENCE:
            return _failed(run, row, trial, bake.unseen, on_failure=release.update.on_failure)
        run.pause(min(bake.pause(end if late < 0 else math.inf), 0.5))


def _failed(
    run: Run, row: TransactionRow, trial: Trial, reason: str, *, on_failure: OnFailure
) -> TransactionRow | None:
    if on_failure is OnFailure.ROLLBACK and not _data_holds(run, row):
        return trial.fail(reason)
    _say_held(run, row, reason)
    while not run.context.stopping.is_set():
        if run.cancelled() and not _data_holds(run, row):
            return trial.fail(run.cancelled())
        if run.resumed():
            return trial.end(State.HEALTHY, f"kept by an operator although {reason}")
        trial.look()
        run.pause(0.5)
    return None


def _data_holds(run: Run, row: TransactionRow) -> bool:
    """Tell whether only a person may say what becomes of the data, and nobody has."""
    now = run.context.work.transaction(row.id)
    return decide_back(run.context, now) is DataChoice.HOLD


def _say_held(run: Run, row: TransactionRow, reason: str) -> None:
    name = row.service
    why, hint = "as its spec asks", f"`nebh abort {name}` goes back, `nebh resume {name}` keeps it"
    if _data_holds(run, row):
        why = f"for release {row.from_counter} may not run on the data as it is now"
        hint = (
            f"`nebh rollback {name} --data restore` goes back with the data from before the update (what was written "
            f"since is put aside), `nebh resume {name}` keeps release {row.to_counter}"
        )
    run.context.event(
        "transaction.held",
        f"{name}: release {row.to_counter} fails its checks and is held, {why}: {reason}",
        severity=Severity.ALARM,
        service=name,
        hint=hint,
    )


def healthy(run: Run, row: TransactionRow) -> TransactionRow:
    """HEALTHY: nobody else to wait for on one node, so commit: the release is the node's, the old side leaves."""
    context = run.context
    _, old = run.sides(row)
    wanted = {"stop": Wanted.STOPPED, "remove": Wanted.REMOVED}.get(row.kind, Wanted.RUNNING)
    known = context.work.service(row.service)
    counter = row.to_counter if wanted is Wanted.RUNNING else (known.counter if known else 0)

    def settle() -> None:
        context.work.set_service(row.service, epoch=row.epoch, counter=counter, replicas=row.replicas, wanted=wanted)
        if wanted is Wanted.RUNNING:
            context.accepted.mark_committed(row.service, row.epoch, counter, now=context.clock.now_ms())
        context.accepted.settle_policy(row.service)

    ended = run.move(row, State.COMMITTED, roles={one.id: Role.LEAVING for one in old}, also=settle)
    run.sweeper.sweep(tuple(one.id for one in old))
    tidy_snapshots(context, row.service)
    if wanted is Wanted.REMOVED:
        run.sweeper.forget(row.service)
    return ended
