"""Operators' orders, and what every statement shares: a look inside, a refusal that is heard."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from nebh.executor.backup_restore import RULE as BACKUP_RULE
from nebh.executor.backup_restore import check_restore, order_job
from nebh.executor.context import Context
from nebh.executor.data import decide_back
from nebh.executor.engine import Engine
from nebh.executor.sizes import RULE as DATA_RULE
from nebh.executor.trust import Trust
from nebh.executor.volume_orders import ACTIONS, VolumeOrders
from nebh.model.errors import BadInput, Conflict, NebhError, NotFound, Refused
from nebh.model.event import Severity
from nebh.model.kept import SnapshotRow
from nebh.model.statement import Action, Assignment, Order, Outcome
from nebh.model.transaction import State
from nebh.model.work import ServiceRow, TransactionRow, Wanted
from nebh.planning import accept
from nebh.planning.accept_order import OrderFacts
from nebh.planning.data import DataChoice, may_read, snapshot_to_restore
from nebh.signing.statements import peek_statement

T = TypeVar("T")


class Desk(Protocol):
    """Where transactions are begun, one statement at a time."""

    lock: threading.RLock

    def begin(
        self,
        *,
        service: str,
        kind: str,
        epoch: int,
        counter: int,
        replicas: int,
        nonce: str,
        phase: str = "run",
        snapshot: str = "",
    ) -> TransactionRow:
        """Journal a transaction and let it run."""
        ...

    def after(self, row: TransactionRow, act: Callable[[], None]) -> None:
        """Have something done once an open transaction has ended."""
        ...


def peek(context: Context, envelope: bytes, kind: str, cls: type[T]) -> T:
    """Return what is inside; whatever has another shape than it must is an event. Raises BadInput."""
    try:
        return peek_statement(envelope, kind, cls)
    except BadInput as error:
        context.event(
            f"{kind}.refused",
            f"what the agent handed in is no {kind}: {error}",
            severity=Severity.ALARM,
            hint="controller and node of different versions, or somebody tries things",
            facts={"rule": "schema"},
        )
        raise


def refuse(context: Context, wish: Assignment | Order, error: Refused, *, again: bool = False) -> None:
    """Tell of a refusal. again: this very statement was taken before (an agent that heard no answer in time offers
    it once more), so what came of it is receipted, and a second verdict would belie the first."""
    if isinstance(wish, Order):
        kind, what, counter = "order", f"an order to {wish.action.value}", 0
    else:
        kind, what, counter = "assignment", f"an assignment to release {wish.counter}", wish.counter
    context.event(
        f"{kind}.refused",
        f"{wish.service}: {what} was refused: {error}",
        severity=Severity.WARNING if again else Severity.ALARM,
        service=wish.service,
        hint=error.hint,
        facts={"rule": error.rule, "nonce": wish.nonce},
    )
    if again:
        return
    context.receipt(
        Outcome.REFUSED,
        nonce=wish.nonce,
        service=wish.service,
        counter=counter,
        rule=error.rule,
        detail=error.message,
        hint=error.hint,
    )


def held_by_data(context: Context, current: TransactionRow) -> Refused | None:
    """Whoever has no say over the data cannot send a release back whose data the old one may not have."""
    if decide_back(context, current) is not DataChoice.HOLD:
        return None
    return Refused(
        f"cannot send {current.service} back from release {current.to_counter}: release {current.from_counter} may not"
        " run on the data as it is now",
        rule=DATA_RULE,
        hint=f"`nebh rollback {current.service} --data restore` goes back with the data from before the update;"
        f" `nebh resume {current.service}` keeps release {current.to_counter}",
    )


def _no_rehearsal(wish: Order) -> None:
    raise NotFound(f"cannot rehearse {wish.service}: this node does not yet know its own record")


class Orders:
    """Takes what only an operator may say."""

    def __init__(self, context: Context, *, engine: Engine, trust: Trust, desk: Desk) -> None:
        self._context = context
        self._engine = engine
        self._trust = trust
        self._desk = desk
        self.rehearse: Callable[[Order], None] = _no_rehearsal
        self.volumes = VolumeOrders(context)

    def order(self, envelope: bytes) -> None:
        """Carry out an operator's order. Raises BadInput, Refused."""
        wish = peek(self._context, envelope, "order", Order)
        try:
            signer, fresh = self._order_signer(envelope)
            facts = OrderFacts(
                order=wish,
                signer=signer,
                operator_keys=tuple(self._context.accepted.meta("operator_keys").split()),
                accepted=self._context.accepted.state(),
                fresh=fresh,
                now=self._context.clock.now_ms() // 1000,
            )
            verdict = accept.accept_order(facts)
            if not verdict.ok:
                raise Refused(verdict.reason, rule=verdict.rule, hint=verdict.hint)
        except Refused as error:
            refuse(self._context, wish, error, again=self._was_carried_out(wish, envelope))
            raise
        with self._desk.lock:
            if wish.nonce in self._context.accepted.state().nonces:  # the same bytes came twice at once
                twice = Refused("the order was carried out here before", rule="order")
                refuse(self._context, wish, twice, again=True)
                raise twice
            try:
                with self._context.database.atomically():
                    self._context.accepted.use_nonce(wish.nonce, now=self._context.clock.now_ms())
                    self._begin(wish, envelope)
            except NebhError as error:
                self._context.accepted.use_nonce(wish.nonce, now=self._context.clock.now_ms())
                if isinstance(error, Refused) and error.rule == BACKUP_RULE:
                    refuse(self._context, wish, error)
                    raise
                self._context.receipt(
                    Outcome.FAILED, nonce=wish.nonce, service=wish.service, detail=error.message, hint=error.hint
                )
                raise

    def _begin(self, wish: Order, envelope: bytes) -> None:
        if wish.action in ACTIONS:
            self.volumes.begin(wish, envelope)
        else:
            self._context.accepted.set_meta(f"order/{wish.service}", base64.b64encode(envelope).decode())
            self.carry_out(wish)

    def _was_carried_out(self, wish: Order, envelope: bytes) -> bool:
        if wish.action in ACTIONS:
            return self.volumes.took(envelope)
        accepted = self._context.accepted
        return accepted.meta(f"order/{wish.service}") == base64.b64encode(envelope).decode()

    def _order_signer(self, envelope: bytes) -> tuple[str, bool]:
        fresh = True
        try:
            self._trust.refresh()
        except NebhError:
            fresh = False
        return self._trust.signer_of(envelope, "order", Order), fresh

    def carry_out(self, wish: Order) -> None:
        """Do what an order says that ends, or begins, a transaction. Raises BadInput, NotFound, Conflict, Refused."""
        current = self._context.work.open_transaction(wish.service)
        match wish.action:
            case Action.ABORT | Action.RESUME:
                self._steer(wish, current)
            case Action.REMOVE:
                self._begin_removal(wish, current)
            case Action.RESTORE:
                self._restore(wish, current)
            case Action.BACKUP | Action.VERIFY_BACKUPS | Action.LIST_BACKUPS:
                order_job(self._context, wish)
            case Action.REHEARSE | Action.END_REHEARSAL:
                self.rehearse(wish)

    def _steer(self, wish: Order, current: TransactionRow | None) -> None:
        if current is None:
            raise NotFound(f"no transaction of {wish.service} is under way here")
        if wish.action is Action.ABORT:
            held = held_by_data(self._context, current)
            if held is not None:
                raise held
            self._engine.cancel(current, "an operator said abort")
        else:
            self._engine.resume(current)
        self._context.receipt(Outcome.ACCEPTED, nonce=wish.nonce, service=wish.service)

    def _begin_removal(self, wish: Order, current: TransactionRow | None) -> None:
        service = self._context.work.service(wish.service)
        if service is None or service.wanted is Wanted.REMOVED:
            self._context.receipt(Outcome.REMOVED, nonce=wish.nonce, service=wish.service, detail="it is not here")
            return
        if current is not None:
            self._desk.after(current, lambda: self._remove(wish))
            self._engine.cancel(current, "an operator removes the service")
            return
        self._remove(wish)

    def _remove(self, wish: Order) -> None:
        service = self._context.work.service(wish.service)
        if service is not None:
            self._desk.begin(
                service=wish.service,
                kind="remove",
                epoch=service.epoch,
                counter=service.counter,
                replicas=0,
                nonce=wish.nonce,
            )

    # data

    def _restore(self, wish: Order, current: TransactionRow | None) -> None:
        service = self._context.work.service(wish.service)
        if service is None or service.wanted is Wanted.REMOVED or not service.counter:
            raise NotFound(f"cannot restore the data of {wish.service}: it does not run here")
        if current is not None and wish.backup is None:
            self._restore_by_going_back(wish, current)
            return
        if wish.backup is not None:
            snapshot, counter = check_restore(self._context, wish, service)
            self._desk.begin(
                service=wish.service,
                kind="restore",
                epoch=service.epoch,
                counter=counter,
                replicas=max(service.replicas, 1),
                nonce=wish.nonce,
                snapshot=snapshot,
            )
            return
        found = self._find_snapshot(wish, service)
        self._desk.begin(
            service=wish.service,
            kind="restore",
            epoch=found.epoch if found.counter else service.epoch,
            counter=wish.counter or found.counter or service.counter,  # what was cloned no release of it has written
            replicas=max(service.replicas, 1),
            nonce=wish.nonce,
            snapshot=found.name,
        )

    def _restore_by_going_back(self, wish: Order, current: TransactionRow) -> None:
        """A release on trial, or held: its own snapshots are what is asked for."""
        if wish.snapshot or wish.counter not in (0, current.from_counter) or not current.cutover:
            raise Conflict(
                f"cannot restore the data of {wish.service}: a transaction to release {current.to_counter} is under way",
                hint=f"`nebh rollback {wish.service} --data restore` without --to goes back behind it; else wait for it",
            )
        self._context.work.set_data(current.id, DataChoice.RESTORE.value)
        self._desk.after(current, lambda: self._say_restored(wish, current.id))
        self._engine.cancel(current, "an operator has the data restored")

    def _say_restored(self, wish: Order, number: int) -> None:
        row = self._context.work.transaction(number)
        back = row.state is State.ROLLED_BACK
        self._context.receipt(
            Outcome.COMMITTED if back else Outcome.FAILED,
            nonce=wish.nonce,
            service=wish.service,
            counter=row.from_counter if back else row.to_counter,
            detail="the data is as it was before the update" if back else "the transaction was committed meanwhile",
        )

    def _find_snapshot(self, wish: Order, service: ServiceRow) -> SnapshotRow:
        rows = [one for one in self._context.volumes.snapshots(wish.service) if one.whole]
        if wish.snapshot:
            found = next((one for one in rows if one.name == wish.snapshot), None)
        else:
            found = snapshot_to_restore(rows, epoch=service.epoch, counter=wish.counter)
        if found is None:
            known = ", ".join(sorted({f"{one.name} (release {one.counter})" for one in rows})) or "none"
            asked = wish.snapshot or f"release {wish.counter}"
            raise NotFound(
                f"cannot restore the data of {wish.service}: there is no snapshot of {asked} here",
                hint=f"`nebh volume snapshots {wish.service}` lists them; here are: {known}",
            )
        self._check_reader(wish, service, found)
        return found

    def _check_reader(self, wish: Order, service: ServiceRow, found: SnapshotRow) -> None:
        """A snapshot with another release than the one that wrote it: it has to read that data."""
        if wish.counter in (0, found.counter):
            return
        release = self._context.accepted.release(wish.service, service.epoch, wish.counter)
        fit = may_read(release, found.version) if release is not None else None
        if fit is not None and not fit.ok:
            raise Refused(
                f"cannot run release {wish.counter} of {wish.service} on snapshot {found.name}: {fit.reason}",
                rule=DATA_RULE,
                hint=f"without --to it comes with release {found.counter}, which wrote it",
            )
