"""A transaction whose only effect is other texts in files of instances that run: the same states, no new instance.

PREPARING renders; STARTING replaces each instance's files in one step and tells its program; the row `cutover` says in
one commit that the instances, and their volumes, are the new release's. Until that row going back is as cheap as going
forward, and whoever makes an instance anew meanwhile waits for it.
"""

from __future__ import annotations

from nebh.executor.back import note_back, rolling_back
from nebh.executor.effects import effect
from nebh.executor.health import is_proven, wait_ready
from nebh.executor.live import both_releases, changed_paths, give, in_place, serving, tell
from nebh.executor.run import Run
from nebh.executor.switchover import starting
from nebh.model.errors import Failed, NebhError
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.transaction import State
from nebh.model.work import InstanceRow, TransactionRow

Rows = tuple[InstanceRow, ...]


def switching(run: Run, row: TransactionRow) -> TransactionRow:
    """STARTING: new instances, or new files under those that run."""
    return _forward(run, row) if row.live else starting(run, row)


def going_back(run: Run, row: TransactionRow) -> TransactionRow:
    """ROLLING_BACK: traffic to the old instances, or the old files under those that run."""
    return _back(run, row) if row.live else rolling_back(run, row)


def _forward(run: Run, row: TransactionRow) -> TransactionRow:
    context = run.context
    old, new = both_releases(context, row)
    changed = changed_paths(context, old, new)
    proven = is_proven(context, row)
    rows = serving(context, row)
    with in_place(context, rows):
        for one in rows:
            give(context, row, one, new, prefix="reload")
        for one in rows:
            tell(context, row, one, new, changed, prefix="reload")
        for one in rows:
            result = wait_ready(context, one, cancelled=run.cancelled, proven=proven)
            now = context.work.instance(one.id)
            if result.ok and (now is None or now.restarts != one.restarts):
                raise Failed(f"{one.id} did not stay up: {now.last_exit if now else 'it is gone'}")
            if not result.ok:
                return run.move(row, State.ROLLING_BACK, reason=result.detail)
        if run.cancelled():
            return run.move(row, State.ROLLING_BACK, reason=run.cancelled())
        return run.move(
            row,
            State.CHECKING,
            via=State.CUTTING_OVER,
            cutover=True,
            also=lambda: _note_release(run, row, rows, counter=new.counter),
        )


def _note_release(run: Run, row: TransactionRow, rows: Rows, *, counter: int) -> None:
    """Instances and volumes are of this release now."""
    context = run.context
    context.work.set_counter(tuple(one.id for one in rows), counter)
    other = row.from_counter if counter == row.to_counter else row.to_counter
    for volume in context.volumes.volumes(row.service):
        if (volume.epoch, volume.counter) == (row.epoch, other):
            context.volumes.note_writer(volume, epoch=row.epoch, counter=counter, version=volume.version)


def _back(run: Run, row: TransactionRow) -> TransactionRow:
    """May be repeated: files that are back already stay so, and the program is told once more."""
    context = run.context
    old, new = both_releases(context, row)
    changed = changed_paths(context, old, new)
    rows = serving(context, row)
    with in_place(context, rows):
        for one in rows:
            if context.drivers.containers.observe(one.id).status is Status.RUNNING:
                give(context, row, one, old, prefix="back")
                _tell_back(run, row, one, changed)

        def note() -> None:
            note_back(run, row, row.reason)
            _note_release(run, row, rows, counter=old.counter)

        return run.move(row, State.ROLLED_BACK, also=note)


def _tell_back(run: Run, row: TransactionRow, one: InstanceRow, changed: frozenset[str]) -> None:
    """A program that cannot be told is ended: made anew, it reads the files that are back."""
    context = run.context
    old, _ = both_releases(context, row)
    try:
        tell(context, row, one, old, changed, prefix="back")
    except NebhError as error:
        context.tell(
            "reload.failed",
            f"{row.service}: {error}; {one.id} is restarted, so that it reads the files that are back",
            severity=Severity.WARNING,
            service=row.service,
            hint=error.hint,
        )
        with effect(context, row.id, "back.end"):
            context.drivers.containers.signal(one.id, "KILL")
