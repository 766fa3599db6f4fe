"""What comes in through the door: assignments, orders, hints, and the wishes of root on this node.

Quick checks happen here; everything that needs metadata happens in the transaction's own thread.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from nebh.executor.context import Context
from nebh.executor.engine import Engine
from nebh.executor.orders import Orders, held_by_data, peek, refuse
from nebh.executor.trust import Trust
from nebh.host import marks
from nebh.model.errors import Conflict, NebhError, NotFound, Refused
from nebh.model.event import Severity
from nebh.model.policy import ServiceState
from nebh.model.statement import Assignment, Order, Outcome, Phase
from nebh.model.transaction import State
from nebh.model.work import Role, TransactionRow, Wanted
from nebh.planning import local
from nebh.signing.statements import peek_statement

T = TypeVar("T")
_BEFORE_CUTOVER = frozenset({State.ASSIGNED, State.PREPARING, State.PREPARED, State.STARTING})

SEQ_AHEAD = 24 * 3_600_000
"""How far a number may be ahead of the clock, in ms (numbers of a new controller begin at Unix ms)."""
ROOT_SAID = "root on this node said rollback"


class Intake:
    """Turns statements into transactions. One at a time."""

    def __init__(self, context: Context, *, engine: Engine, trust: Trust) -> None:
        self._context = context
        self._engine = engine
        self._trust = trust
        self.lock = threading.RLock()
        self._waiting: dict[int, Callable[[], None]] = {}
        self._hinting = threading.Lock()
        self._hinted = threading.Event()
        self.refreshed: Callable[[], None] = lambda: None
        self.orders = Orders(context, engine=engine, trust=trust, desk=self)
        engine.on_end = self._after

    # assignments

    def assignment(self, envelope: bytes) -> None:
        """Take a controller's choice. Raises BadInput, Refused; a refusal is also receipted."""
        wish = peek(self._context, envelope, "assignment", Assignment)
        with self._refusing(wish, envelope):
            self._check(envelope, wish)
        marks.mark("intake.checked")
        with self.lock:
            # again: the same bytes may have come twice at once
            with self._refusing(wish, envelope):
                self._check_number(wish)
            if self._turns_back(wish, envelope):
                return
            with self._refusing(wish, envelope), self._context.database.atomically():
                self._keep(wish, envelope)
                under_way = self._context.work.open_transaction(wish.service) is not None
                if under_way:  # in the same commit: whoever has it go back waits for one less
                    self._act(wish)
            if not under_way:
                self._act(wish)

    def _keep(self, wish: Assignment, envelope: bytes) -> None:
        self._context.accepted.set_meta("seq", str(wish.seq))
        self._context.work.ensure_service(wish.service, epoch=wish.epoch)
        self._context.work.set_assignment(wish.service, base64.b64encode(envelope).decode())

    def _turns_back(self, wish: Assignment, envelope: bytes) -> bool:
        """Back from a release on trial to the one before it: the path that users feel. The command is journalled in one
        commit with what came of it, after the switch."""
        current = self._context.work.open_transaction(wish.service)
        if current is None or wish.counter != current.from_counter or self._continues(current, wish):
            return False
        reason = _newer(wish)
        if not self._engine.turn_back(current, reason, also=lambda: self._keep(wish, envelope)):
            return False
        self.after(current, lambda: self._begin(wish))
        return True

    def _check(self, envelope: bytes, wish: Assignment) -> None:
        accepted = self._context.accepted
        if wish.cluster_id != accepted.meta("cluster_id"):
            raise Refused(f"the assignment is of cluster {wish.cluster_id}", rule="N0")
        try:
            self._trust.signer_of(envelope, "assignment", Assignment)
        except Refused:
            with contextlib.suppress(NebhError):  # perhaps the key is new; what fails here is an event already
                self._trust.refresh()
            self._trust.signer_of(envelope, "assignment", Assignment)
        if wish.node_id != accepted.meta("node_id"):
            raise Refused(f"the assignment is for node {wish.node_id}, not for this one", rule="N4")
        self._check_number(wish)
        self._check_known(wish)

    def _check_known(self, wish: Assignment) -> None:
        """Nothing is journalled about services that no operator ever signed: each would take ids and addresses."""
        if not self._context.accepted.has_policy(wish.service):
            with contextlib.suppress(NebhError):
                self._trust.refresh()
        if not self._context.accepted.has_policy(wish.service):
            raise Refused(
                f"there is no signed policy for {wish.service[:64]!r}",
                rule="N3",
                hint="deploy it from its spec; was its metadata withheld from this node?",
            )

    def _check_number(self, wish: Assignment) -> None:
        newest = self._context.accepted.seq()
        if wish.seq <= newest:
            raise Refused(
                f"assignment {wish.seq} is not newer than {newest}, the newest this node has seen",
                rule="assignment.seq",
                hint="it was replayed or came out of order",
            )
        # Honest numbers follow the clock; one far ahead of it would shut the door on every later assignment.
        if wish.seq > max(newest, self._context.clock.now_ms()) + SEQ_AHEAD:
            raise Refused(
                f"assignment {wish.seq} runs far ahead of this node's clock",
                rule="assignment.seq",
                hint="is a clock wrong? a hacked controller would do this too: replace its key",
            )

    @contextlib.contextmanager
    def _refusing(self, wish: Assignment, envelope: bytes) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            kept = self._context.work.service(wish.service)
            again = kept is not None and kept.assignment == base64.b64encode(envelope).decode()
            refuse(self._context, wish, error, again=again)
            raise

    def _act(self, wish: Assignment) -> None:
        current = self._context.work.open_transaction(wish.service)
        if current is None:
            self._begin(wish)
        elif self._continues(current, wish):
            self._context.work.adopt(current.id, nonce=wish.nonce, phase="run")
            self._engine.submit(self._context.work.transaction(current.id))
        elif current.state in _BEFORE_CUTOVER or wish.counter == current.from_counter:
            error = held_by_data(self._context, current)
            if error is not None:
                refuse(self._context, wish, error)
                return
            self.after(current, lambda: self._begin(wish))
            self._engine.cancel(current, _newer(wish))
        else:
            error = Refused(
                f"release {current.to_counter} of {wish.service} is {current.state.value.lower()} on this node",
                rule="busy",
                hint=f"wait for it, or `nebh abort {wish.service}`",
            )
            refuse(self._context, wish, error)

    def _continues(self, current: TransactionRow, wish: Assignment) -> bool:
        same = (current.epoch, current.to_counter) == (wish.epoch, wish.counter)
        return same and wish.phase is Phase.RUN and current.phase == "prepare"

    def _begin(self, wish: Assignment) -> None:
        work = self._context.work
        service = work.service(wish.service)
        serving = [one for one in work.instances(wish.service) if one.role is Role.SERVING]
        committed = (service.epoch, service.counter) if service else (0, 0)
        kind = local.kind_of(
            phase=wish.phase.value,
            epoch=wish.epoch,
            counter=wish.counter,
            replicas=wish.replicas,
            committed=committed,
            now_running=len(serving),
        )
        if kind == "stop":
            self._may_withdraw(wish)
        if kind == "none":
            with contextlib.suppress(NebhError):  # what fails here is an event already
                self._trust.refresh()  # the receipt names what this node has seen
            outcome = Outcome.STOPPED if wish.phase is Phase.WITHDRAW else Outcome.COMMITTED
            self._context.receipt(
                outcome, nonce=wish.nonce, service=wish.service, counter=wish.counter, detail="it is so already"
            )
            return
        self.begin(
            service=wish.service,
            kind=kind,
            epoch=wish.epoch,
            counter=committed[1] if kind == "stop" else wish.counter,
            replicas=wish.replicas,
            nonce=wish.nonce,
            phase="prepare" if wish.phase is Phase.PREPARE else "run",
        )

    def _may_withdraw(self, wish: Assignment) -> None:
        """Only a spread service, or one whose policy says stopped, stops at a controller's word."""
        try:
            self._trust.refresh()
        except NebhError:
            pass
        policy = self._context.accepted.policy(wish.service)
        if policy is None or policy.state is ServiceState.STOPPED or policy.placement.mode.value == "spread":
            return
        error = Refused(
            f"{wish.service} is pinned: a controller cannot withdraw it",
            rule="assignment.withdraw",
            hint=f"`nebh stop {wish.service}` signs a policy that stops it",
        )
        refuse(self._context, wish, error)
        raise error

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
        """Journal a transaction and let it run. Raises Conflict when one is open."""
        if self._context.work.open_transaction(service) is not None:
            raise Conflict(f"a transaction of {service} is under way", hint=f"wait, or `nebh abort {service}`")
        now = self._context.clock.now_ms()
        known = self._context.work.ensure_service(service, epoch=epoch)
        row = self._context.work.begin(
            TransactionRow(
                id=0,
                service=service,
                kind=kind,
                state=State.ASSIGNED,
                epoch=epoch,
                from_counter=known.counter,
                to_counter=counter,
                replicas=replicas,
                nonce=nonce,
                phase=phase,
                cutover=False,
                attempt=1,
                created_at=now,
                changed_at=now,
                snapshot=snapshot,
            )
        )
        self._engine.submit(row)
        return row

    def after(self, row: TransactionRow, act: Callable[[], None]) -> None:
        """Have something done once an open transaction has ended."""
        self._waiting[row.id] = act

    def _after(self, row: TransactionRow) -> None:
        """A transaction has ended: do what waited for it."""
        with self.lock:
            waiting = self._waiting.pop(row.id, None)
            if waiting is not None:
                with contextlib.suppress(Refused):  # it is receipted
                    waiting()

    def recover(self) -> None:
        """After a start: carry out what was accepted and then lost by a crash before anything came of it."""
        with self.lock:
            for service in self._context.work.services():
                order = self._context.accepted.meta(f"order/{service.service}")
                if order:
                    wish = peek_statement(base64.b64decode(order), "order", Order)
                    if not self._context.work.knows(wish.nonce):
                        self.orders.carry_out(wish)
                if service.assignment:
                    choice = peek_statement(base64.b64decode(service.assignment), "assignment", Assignment)
                    if not self._context.work.knows(choice.nonce):
                        with contextlib.suppress(Refused):  # it is receipted
                            self._act(choice)

    # hints and policies

    def hint(self) -> None:
        """There may be newer metadata: look, in the background, and follow what policies say of running."""
        threading.Thread(target=self._follow, name="hint", daemon=True).start()

    def _follow(self) -> None:
        """One at a time; a hint that comes meanwhile is followed afterwards: each publication is hinted at once only."""
        self._hinted.set()
        while self._hinted.is_set() and self._hinting.acquire(blocking=False):
            try:
                self._hinted.clear()
                self._trust.refresh(another=True)  # what was published is assigned next
                self._follow_accepted()
            except NebhError:
                continue  # the refusal is an event already
            finally:
                self._hinting.release()

    def _follow_accepted(self) -> None:
        try:
            self.refreshed()
            self.follow_policies()
        except (NebhError, OSError) as error:
            self._context.event(
                "node.not-ready",
                f"this node cannot run services: {error}",
                severity=Severity.ALARM,
                hint=error.hint if isinstance(error, NebhError) else "",
            )

    def follow_policies(self) -> None:
        """Stop what its policy says is stopped, start what it says runs again."""
        for service in self._context.work.services():
            with self.lock:
                self._follow_policy(service.service)

    def _follow_policy(self, name: str) -> None:
        """Under the lock, so that an assignment that says the same does not come in between."""
        service, policy = self._context.work.service(name), self._context.accepted.policy(name)
        if service is None or policy is None or not service.counter or self._context.work.open_transaction(name):
            return
        stopped = policy.state is ServiceState.STOPPED
        if stopped == (service.wanted is not Wanted.RUNNING) or service.wanted is Wanted.REMOVED:
            return
        self.begin(
            service=name,
            kind="stop" if stopped else "deploy",
            epoch=service.epoch,
            counter=service.counter,
            replicas=max(service.replicas, 1),
            nonce="",
        )

    # root on this node

    def roll_back(self, service: str, *, to: int = 0) -> TransactionRow:
        """Go back to a retained release without controller or network. Raises Refused, NotFound, Conflict."""
        known = self._context.work.service(service)
        if known is None or not known.counter:
            raise NotFound(f"no service {service} runs here", hint="`nebh-executor status` lists those that do")
        with self.lock:
            current = self._context.work.open_transaction(service)
            if current is not None and not to:
                if not self._engine.turn_back(current, ROOT_SAID):
                    self._engine.cancel(current, ROOT_SAID)
                return replace(current, to_counter=current.from_counter)
            counter = to or self._previous(service, known.epoch, known.counter)
            return self.begin(
                service=service,
                kind="deploy",
                epoch=known.epoch,
                counter=counter,
                replicas=max(known.replicas, 1),
                nonce="",
            )

    def _previous(self, service: str, epoch: int, counter: int) -> int:
        earlier = [
            row.counter
            for row in self._context.accepted.release_rows(service)
            if row.epoch == epoch and row.counter < counter and row.committed_at and not row.failed
        ]
        if not earlier:
            raise NotFound(f"no earlier release of {service} was committed here")
        return max(earlier)


def _newer(wish: Assignment) -> str:
    return f"a newer command asks for release {wish.counter}"
