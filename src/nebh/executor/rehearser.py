"""Who has releases rehearsed: an operator's order, or the schedule that a release carries. One at a time on a node.

The schedule needs nobody: it stands in what was signed, and runs what was signed on the data that lies here.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from nebh.executor.context import Context
from nebh.executor.dataplane import Dataplane
from nebh.executor.rehearse import Report, is_quiet, last_lines, rehearse, remove
from nebh.executor.run import Run
from nebh.executor.supervise import Supervisor
from nebh.executor.sweep import Sweeper
from nebh.executor.trust import Trust
from nebh.model.errors import Conflict, NebhError, NotFound
from nebh.model.event import Severity
from nebh.model.names import instance_id
from nebh.model.rehearsal import RehearsalRow, RehearsalRule, Rehearsed
from nebh.model.statement import Action, Order, Outcome
from nebh.model.work import Role, ServiceRow, Wanted
from nebh.planning.rehearse import is_due

TICK: Final = 20.0
"""Seconds between two looks at the schedule and at what could not be taken away."""
CUT_SHORT: Final = "the executor was started anew meanwhile"
AGAIN: Final = "`nebh rehearse {}` begins again"
ENDED: Final = "an operator ended it"


class Rehearser:
    """Begins, ends and tells of rehearsals."""

    def __init__(
        self, context: Context, *, plane: Dataplane, sweeper: Sweeper, supervisor: Supervisor, trust: Trust
    ) -> None:
        self._context = context
        self._plane = plane
        self._parts = (sweeper, supervisor, trust)
        self._ours: set[str] = set()
        self._left: dict[str, Report] = {}
        self._cancelled: dict[str, str] = {}
        self._told = threading.Condition()
        self._busy: dict[str, threading.Thread] = {}
        self._loop = threading.Thread(target=self._follow_schedule, name="rehearsals", daemon=True)

    def start(self) -> None:
        """In the background, take away what an earlier executor left, and follow the schedule."""
        if self._loop.ident is None:
            self._loop.start()

    def stop(self) -> None:
        """End what is under way and take it away, within some seconds; the next executor does the rest."""
        self._wake()
        for thread in list(self._busy.values()):
            thread.join(5.0)

    def _run(self, name: str) -> Run:
        sweeper, supervisor, trust = self._parts
        return Run(
            context=self._context,
            dataplane=self._plane,
            sweeper=sweeper,
            supervisor=supervisor,
            trust=trust,
            cancelled=lambda: self._reason(name),
            resumed=lambda: False,
            pause=self._pause,
            give_up=lambda _: None,
            offer=lambda _: None,
        )

    def _reason(self, name: str) -> str:
        return self._cancelled.get(name, "") or ("the executor is stopping" if self._context.stopping.is_set() else "")

    def _pause(self, seconds: float) -> None:
        with self._told:
            if not self._cancelled and not self._context.stopping.is_set():
                self._told.wait(seconds)

    def _wake(self) -> None:
        with self._told:
            self._told.notify_all()

    # orders

    def order(self, wish: Order) -> None:
        """Carry out an order to rehearse, or to end that. Raises NotFound, Conflict. Inside a commit."""
        if wish.action is Action.END_REHEARSAL:
            self._cancel(wish)
            return
        service = self._context.work.service(wish.service)
        if service is None or service.wanted is not Wanted.RUNNING or not service.counter:
            raise NotFound(f"cannot rehearse {wish.service}: it does not run here")
        counter = wish.counter or self._previous(service)
        if not counter:
            raise NotFound(
                f"cannot rehearse {wish.service}: no earlier release was committed here", hint="`--to` names another"
            )
        row = self._journal(service, counter, nonce=wish.nonce)
        self._context.receipt(Outcome.ACCEPTED, nonce=wish.nonce, service=wish.service, counter=counter)
        self._context.database.then(lambda: self._begin(row))

    def _cancel(self, wish: Order) -> None:
        rows = [one for one in self._context.rehearsals.rows() if one.service == wish.service]
        if not rows:
            raise NotFound(f"no rehearsal of {wish.service} is under way here")
        for row in rows:
            self._cancelled[row.id] = ENDED
        self._context.receipt(Outcome.ACCEPTED, nonce=wish.nonce, service=wish.service)
        self._context.database.then(self._wake)

    def _journal(self, service: ServiceRow, counter: int, *, nonce: str) -> RehearsalRow:
        """Give it its place. Raises Conflict."""
        context, name = self._context, service.service
        with context.database.atomically():
            under_way = context.rehearsals.rows()
            if under_way:
                raise Conflict(
                    f"cannot rehearse {name}: a rehearsal of {under_way[0].service} is under way here",
                    hint="one at a time: wait for it",
                )
            if not is_quiet(context, name):
                raise Conflict(f"cannot rehearse {name}: an update of it is under way", hint="wait for it")
            replica = min((one.replica for one in context.work.instances(name) if one.role is Role.SERVING), default=0)
            attempt = context.work.next_attempt(name)
            row = RehearsalRow(
                id=instance_id(service=name, counter=counter, replica=replica, attempt=attempt),
                service=name,
                epoch=service.epoch,
                counter=counter,
                replica=replica,
                attempt=attempt,
                address=context.work.free_address(),
                nonce=nonce,
                began_at=context.clock.now_ms(),
            )
            self._ours.add(row.id)
            context.rehearsals.add(row)
        return row

    def _begin(self, row: RehearsalRow) -> None:
        thread = threading.Thread(target=self._work, args=(row,), name=f"rehearsal {row.id}", daemon=True)
        self._busy[row.id] = thread
        thread.start()

    # one of them

    def _work(self, row: RehearsalRow) -> None:
        report = Report()
        try:
            self._context.event(
                "rehearsal.begun",
                f"{row.service}: rehearsing release {row.counter} on a copy of its data",
                service=row.service,
                facts={"nonce": row.nonce, "counter": str(row.counter)},
            )
            rehearse(self._run(row.id), row, report)
        except (NebhError, OSError) as error:
            report.problem = self._reason(row.id) or str(error)
            report.hint = error.hint if isinstance(error, NebhError) else ""
        except Exception as error:
            logging.getLogger(__name__).exception("a rehearsal of %s failed", row.service)
            report.problem = f"{type(error).__name__}: {error}"
        if report.problem:
            report.said = last_lines(self._context, row)
        try:
            self._end(row, report)
        finally:
            self._cancelled.pop(row.id, None)
            self._busy.pop(row.id, None)
            self._ours.discard(row.id)

    def _end(self, row: RehearsalRow, report: Report) -> None:
        """Take it away and tell what came of it, in that order; what cannot be taken away now is tried again."""
        try:
            remove(self._context, self._plane, row, also=lambda: self._tell(row, report))
            self._left.pop(row.id, None)
        except (NebhError, OSError) as error:
            known = row.id in self._left
            self._left[row.id] = report
            if not known and not self._context.stopping.is_set():
                self._context.tell(
                    "rehearsal.left",
                    f"{row.service}: cannot take away what a rehearsal made: {error}",
                    service=row.service,
                    hint="it is tried again",
                )

    def _tell(self, row: RehearsalRow, report: Report) -> None:
        """Journal the event, and the receipt of an order."""
        context, passed = self._context, not report.problem
        took = sum(one.took for one in report.steps)
        what = f"{row.service}: the rehearsal of release {row.counter}"
        facts = {"nonce": row.nonce, "counter": str(row.counter), "data": report.start, "output": report.said}
        steps = {one.name: f"{'ok' if one.ok else 'failed'} {one.took} ms {one.detail}".strip() for one in report.steps}
        context.event(
            "rehearsal.passed" if passed else "rehearsal.failed",
            f"{what} passed on {report.start}: {len(report.steps)} steps in {took / 1000:.1f} s"
            if passed
            else f"{what} failed: {report.problem}",
            severity=Severity.INFO if passed else Severity.WARNING,
            service=row.service,
            hint="" if passed else report.hint or self._advice(row),
            facts={**steps, **facts},
        )
        if row.nonce:
            context.receipt(
                Outcome.REHEARSED if passed else Outcome.FAILED,
                nonce=row.nonce,
                service=row.service,
                counter=row.counter,
                detail=f"passed on {report.start}" if passed else report.problem,
                hint="" if passed else report.hint,
                phases={f"{number:02} {one.name}": one.took for number, one in enumerate(report.steps, start=1)},
            )

    def _advice(self, row: RehearsalRow) -> str:
        service = self._context.work.service(row.service)
        if service is not None and row.counter < service.counter:
            return (
                f"a rollback of {row.service} to release {row.counter} would fail like this: see `nebh releases "
                f"{row.service}` for another, try it with `nebh rehearse {row.service} --to N`"
            )
        return f"deployed as it is, release {row.counter} would fail like this"

    # the schedule

    def _follow_schedule(self) -> None:
        while not self._context.stopping.is_set():
            try:
                self.tick(self._context.clock.now_ms())
            except (NebhError, OSError) as error:
                if not self._context.stopping.is_set():
                    self._context.tell("rehearsal.trouble", f"cannot follow the schedule of rehearsals: {error}")
            self._context.stopping.wait(TICK)

    def tick(self, now: int) -> None:
        """Do what is due. now: Unix ms."""
        for row in self._context.rehearsals.rows():
            if row.id not in self._ours:
                self._end(row, self._left.get(row.id, Report(problem=CUT_SHORT, hint=AGAIN.format(row.service))))
        for service in self._context.work.services():
            self._look_at(service, now)

    def _look_at(self, service: ServiceRow, now: int) -> None:
        context, name = self._context, service.service
        if service.wanted is not Wanted.RUNNING or not service.counter:
            return
        release = context.accepted.release(name, service.epoch, service.counter)
        rule: RehearsalRule | None = release.rehearse if release is not None else None
        if rule is None:
            return
        last = context.rehearsals.last(name)
        if not last:
            context.rehearsals.note_last(name, now)  # from now on: a deploy is no night
            return
        if not is_due(rule, last=last, now=now):
            return
        counter = service.counter if rule.release is Rehearsed.RUNNING else self._previous(service)
        try:
            row = self._journal(service, counter, nonce="") if counter else None
        except Conflict:
            return  # the next look finds it due again
        context.rehearsals.note_last(name, now)
        if row is not None:
            self._begin(row)

    def _previous(self, service: ServiceRow) -> int:
        """Return the release that a rollback would go back to, 0 = there is none."""
        return max(
            (
                row.counter
                for row in self._context.accepted.release_rows(service.service)
                if row.epoch == service.epoch and row.counter < service.counter and row.committed_at and not row.failed
            ),
            default=0,
        )
