"""Runs transactions: a thread each, a loop over states, nothing remembered that the journal does not hold."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from nebh.executor.back import CRASHED
from nebh.executor.context import Context
from nebh.executor.data import tidy_snapshots
from nebh.executor.dataplane import Dataplane
from nebh.executor.live_switch import going_back, switching
from nebh.executor.prepare import assigned, discard, preparing
from nebh.executor.run import Run, TurnBack
from nebh.executor.sizes import settle_sizes
from nebh.executor.supervise import Supervisor
from nebh.executor.sweep import Sweeper
from nebh.executor.switchover import prepared
from nebh.executor.trust import Trust
from nebh.executor.verdict import checking, healthy
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.transaction import ENDED, State
from nebh.model.work import Role, ServiceRow, TransactionRow, Wanted
from nebh.planning.local import Recovery, recover

STEPS: dict[State, Callable[[Run, TransactionRow], TransactionRow | None]] = {
    State.ASSIGNED: assigned,
    State.PREPARING: preparing,
    State.PREPARED: prepared,
    State.STARTING: switching,
    State.CHECKING: checking,
    State.HEALTHY: healthy,
    State.ROLLING_BACK: going_back,
}
MOST_ATTEMPTS = 3
KEPT_TRANSACTIONS = 200
CANCEL = "cancel"
FIRST_DELAY, MOST_DELAY = 0.2, 30.0


class Engine:
    """One thread per open transaction."""

    def __init__(
        self, context: Context, *, plane: Dataplane, sweeper: Sweeper, supervisor: Supervisor, trust: Trust
    ) -> None:
        self._context = context
        self._plane = plane
        self._sweeper = sweeper
        self._supervisor = supervisor
        self._trust = trust
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._cancelled: dict[int, str] = {}
        self._offers: dict[int, TurnBack] = {}
        self._resumed: set[int] = set()
        self._tries: dict[int, int] = {}
        self._told = threading.Condition()
        self.on_end: Callable[[TransactionRow], None] = lambda _: None

    def submit(self, row: TransactionRow, *, recovered: bool = False) -> None:
        """Go on with a journalled transaction; `recovered`: one that an earlier executor began."""
        self._context.database.then(lambda: self._submit(row, recovered))

    def _submit(self, row: TransactionRow, recovered: bool) -> None:
        with self._lock:
            known = self._threads.get(row.id)
            if known is not None and known.is_alive():
                return
            thread = threading.Thread(
                target=self._work, args=(row, recovered), name=f"transaction {row.id}", daemon=True
            )
            self._threads[row.id] = thread
        thread.start()

    def cancel(self, row: TransactionRow, reason: str) -> None:
        """Have an open transaction go back, or dropped when nothing visible has changed yet."""
        self._cancelled[row.id] = reason
        self._context.work.set_phase(row.id, CANCEL)  # a crash must not make it run after all
        self._tell()
        self.submit(self._context.work.transaction(row.id))

    def turn_back(self, row: TransactionRow, reason: str, *, also: Callable[[], None] = lambda: None) -> bool:
        """Have an open transaction whose release is on trial go back before this returns, and journal `also` in the same
        commit. False: nothing has happened, or it could not be journalled; `cancel` it. Not inside a commit."""
        offer = self._offers.get(row.id)
        if offer is None:
            return False
        try:
            return offer(reason, also)
        except (NebhError, OSError):
            return False
        finally:
            self._tell()

    def resume(self, row: TransactionRow) -> None:
        """Keep a held release although its checks failed, or let a prepared one run."""
        self._resumed.add(row.id)
        self._context.work.set_phase(row.id, "run")
        self._tell()
        self.submit(self._context.work.transaction(row.id))

    def _tell(self) -> None:
        with self._told:
            self._told.notify_all()

    def _pause(self, number: int, seconds: float) -> None:
        """Wait, but not a moment longer once somebody says what a transaction is to do."""
        with self._told:
            if number not in self._cancelled:
                self._told.wait(seconds)

    def busy(self) -> bool:
        """Tell whether a transaction is under way."""
        with self._lock:
            return any(thread.is_alive() for thread in self._threads.values())

    def join(self, timeout: float) -> None:
        """Wait for threads that are stopping."""
        for thread in list(self._threads.values()):
            thread.join(timeout)

    def _work(self, row: TransactionRow, recovered: bool) -> None:
        run = Run(
            context=self._context,
            dataplane=self._plane,
            sweeper=self._sweeper,
            supervisor=self._supervisor,
            trust=self._trust,
            cancelled=lambda: self._cancelled.get(row.id, ""),
            resumed=lambda: row.id in self._resumed,
            pause=lambda seconds: self._pause(row.id, seconds),
            give_up=lambda reason: self._give_up(row.id, reason),
            offer=lambda offer: self._offer(row.id, offer),
            recovered=recovered,
        )
        current: TransactionRow | None = row
        try:
            while current is not None and current.state not in ENDED:
                if self._context.stopping.is_set():
                    return
                current = self._advance(run, current)
        finally:
            with self._lock:
                self._threads.pop(row.id, None)
        if current is not None:
            self._ended(current)

    def _give_up(self, number: int, reason: str) -> None:
        self._cancelled.setdefault(number, reason)

    def _offer(self, number: int, offer: TurnBack | None) -> None:
        if offer is None:
            self._offers.pop(number, None)
        else:
            self._offers[number] = offer

    def _advance(self, run: Run, row: TransactionRow) -> TransactionRow | None:
        try:
            return self._step(run, row) or self._told_meanwhile(row.id)
        except (NebhError, OSError) as error:
            return self._stand_still(row, error)

    def _told_meanwhile(self, number: int) -> TransactionRow | None:
        """A transaction that only prepares may be told to run while its thread is ending: then it goes on here."""
        with self._lock:
            now = self._context.work.transaction(number)
            if now.state is State.PREPARED and now.phase != "prepare" and not self._context.stopping.is_set():
                return now
            self._threads.pop(number, None)
        return None

    def _step(self, run: Run, row: TransactionRow) -> TransactionRow | None:
        try:
            return STEPS[row.state](run, row)
        except Exception as error:
            if self._context.stopping.is_set():
                return None  # what failed may have been the end of this program; the next one goes on
            if not isinstance(error, (NebhError, OSError)):
                logging.getLogger(__name__).exception("a step of transaction %s failed", row.id)
            return self._failed(run, self._context.work.transaction(row.id), error)

    def _failed(self, run: Run, row: TransactionRow, error: Exception) -> TransactionRow | None:
        """A step raised: go back if there is a way back, else say so and try again."""
        if row.state in (State.STARTING, State.CHECKING, State.HEALTHY):
            return run.move(row, State.ROLLING_BACK, reason=str(error))
        if row.state in (State.ASSIGNED, State.PREPARING, State.PREPARED):
            discard(run, row)
            return run.move(row, State.DROPPED, reason=str(error))
        if row.state in ENDED:
            return self._settle_again(row, error)
        return self._go_back_later(row, error)

    def _stand_still(self, row: TransactionRow, error: Exception) -> TransactionRow:
        """Not even the failure could be journalled: the disk is full or broken. Wait, then go on from what stands there."""
        tries = self._tries[row.id] = self._tries.get(row.id, 0) + 1
        if tries == 1:
            what = f"the transaction of {row.service} to release {row.to_counter} stands still in {row.state}"
            logging.getLogger(__name__).error("%s: %s", what, error)
        self._context.stopping.wait(min(FIRST_DELAY * 2**tries, MOST_DELAY))
        with contextlib.suppress(NebhError):
            return self._context.work.transaction(row.id)
        return row

    def _go_back_later(self, row: TransactionRow, error: Exception) -> TransactionRow:
        """From ROLLING_BACK there is one way only: it is tried until it works."""
        tries = self._tries[row.id] = self._tries.get(row.id, 0) + 1
        if tries == 1:
            self._context.tell(
                "transaction.stuck",
                f"{row.service}: cannot finish going back from release {row.to_counter}: {error}",
                severity=Severity.ALARM,
                service=row.service,
                hint="it is tried again until it works; mend the cause",
            )
        self._context.stopping.wait(min(FIRST_DELAY * 2**tries, MOST_DELAY))
        return row

    def _settle_again(self, row: TransactionRow, error: Exception) -> TransactionRow:
        """What follows the end failed: names, routes, the sweep of the side that leaves."""
        self._context.tell(
            "transaction.unsettled",
            f"{row.service}: the transaction to release {row.to_counter} has ended, and what follows failed: {error}",
            severity=Severity.WARNING,
            service=row.service,
            hint="it is tried again until it works",
        )
        leaving = [one.id for one in self._context.work.instances(row.service) if one.role is Role.LEAVING]
        self._sweeper.sweep(tuple(leaving))
        delay = FIRST_DELAY
        while not self._context.stopping.wait(delay):
            try:
                self._plane.settle()
            except (NebhError, OSError):
                delay = min(delay * 2, MOST_DELAY)
            else:
                break
        return row

    def _ended(self, row: TransactionRow) -> None:
        self._cancelled.pop(row.id, None)
        self._resumed.discard(row.id)
        self._tries.pop(row.id, None)
        if not self.busy_with_others(row):
            with contextlib.suppress(NebhError):  # a full disk: what is old may stay a little longer
                self._context.work.prune(keep=KEPT_TRANSACTIONS)
                self._context.database.checkpoint()
        if row.live or row.state in (State.DROPPED, State.REFUSED):
            self._sweeper.prune_now()  # it has no instance whose leaving would
        self._settle_sizes(row.service)
        self.on_end(row)
        self._again(row)

    def busy_with_others(self, row: TransactionRow) -> bool:
        """Tell whether another transaction is under way."""
        with self._lock:
            return any(number != row.id and thread.is_alive() for number, thread in self._threads.items())

    def _again(self, row: TransactionRow) -> None:
        """The release was not at fault: begin anew, unless something newer came or it happens every time."""
        crashed = row.state is State.ROLLED_BACK and row.reason.startswith(CRASHED)
        if not crashed or row.phase == CANCEL or row.attempt >= MOST_ATTEMPTS:
            return
        if self._context.work.open_transaction(row.service) is not None:
            return
        now = self._context.clock.now_ms()
        service = self._context.work.service(row.service)
        self.submit(
            self._context.work.begin(
                TransactionRow(
                    id=0,
                    service=row.service,
                    kind=row.kind,
                    state=State.ASSIGNED,
                    epoch=row.epoch,
                    from_counter=service.counter if service else 0,
                    to_counter=row.to_counter,
                    replicas=row.replicas,
                    nonce=row.nonce,
                    phase="run",
                    cutover=False,
                    attempt=row.attempt + 1,
                    created_at=now,
                    changed_at=now,
                    snapshot=row.snapshot,
                )
            )
        )

    def recover(self) -> None:
        """After a start: go on with every open transaction as the recovery table says."""
        for found in self._context.work.open_transactions():
            row, decision = found, recover(found)
            run_now = self._context.clock.now_ms()
            if decision is Recovery.PREPARE_AGAIN and row.state is State.PREPARED:
                row = self._context.work.move(row, State.PREPARING, now=run_now)
            elif decision is Recovery.BACK:
                row = self._context.work.move(row, State.ROLLING_BACK, now=run_now, reason=CRASHED)
            self._context.event(
                "transaction.recovered",
                f"{row.service}: the transaction to release {row.to_counter} was found in {found.state}: {decision}",
                service=row.service,
                facts={"transaction": str(row.id), "state": found.state.value, "decision": decision.value},
            )
            if row.phase == CANCEL:
                self._cancelled[row.id] = "it was cancelled before the executor was restarted"
            self.submit(row, recovered=True)
        for service in self._context.work.services():
            if self._context.work.open_transaction(service.service) is None:
                self._finish(service)
        self._sweeper.prune_later()

    def _tidy(self, service: str) -> None:
        try:
            tidy_snapshots(self._context, service)
        except (NebhError, OSError) as error:
            self._context.tell("data.untidy", f"{service}: cannot look through its snapshots: {error}", service=service)

    def _settle_sizes(self, service: str) -> None:
        try:
            settle_sizes(self._context, service)
        except (NebhError, OSError) as error:
            self._context.tell(
                "data.not-resized", f"{service}: cannot settle its volumes' sizes: {error}", service=service
            )

    def _finish(self, service: ServiceRow) -> None:
        """What follows the end of a transaction may have been cut short too."""
        for row in self._context.work.history(service.service, limit=1):
            self._again(row)
        if service.wanted is Wanted.REMOVED and self._context.accepted.policy(service.service) is not None:
            self._sweeper.forget_later(service.service)
        else:
            self._tidy(service.service)
            self._settle_sizes(service.service)
