"""What the steps of one transaction share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nebh.executor.context import Context
from nebh.executor.dataplane import Dataplane
from nebh.executor.supervise import Supervisor
from nebh.executor.sweep import Sweeper
from nebh.executor.trust import Trust
from nebh.host import faults
from nebh.model.event import Severity
from nebh.model.statement import Outcome
from nebh.model.transaction import State
from nebh.model.work import InstanceRow, Role, TransactionRow
from nebh.planning import local

_SAID: dict[State, tuple[str, Severity, Outcome | None]] = {
    State.PREPARING: ("accepted: getting everything ready", Severity.INFO, Outcome.ACCEPTED),
    State.PREPARED: ("everything is ready; nothing visible has changed", Severity.INFO, Outcome.PREPARED),
    State.STARTING: ("starting the new instances", Severity.INFO, None),
    State.CHECKING: ("cut over: new requests go to the new instances; checking them", Severity.INFO, Outcome.CUT_OVER),
    State.HEALTHY: ("every check passed", Severity.INFO, Outcome.HEALTHY),
    State.COMMITTED: ("committed", Severity.INFO, Outcome.COMMITTED),
    State.ROLLING_BACK: ("going back", Severity.WARNING, None),
    State.ROLLED_BACK: ("rolled back", Severity.WARNING, Outcome.ROLLED_BACK),
    State.REFUSED: ("refused", Severity.WARNING, Outcome.REFUSED),
    State.DROPPED: ("dropped before anything visible changed", Severity.WARNING, Outcome.FAILED),
}
_SAID_LIVE = {
    State.PREPARED: "its files are rendered; nothing visible has changed",
    State.STARTING: "replacing files under the instances that run",
    State.CHECKING: "the new files are in place; checking",
}


TurnBack = Callable[[str, Callable[[], None]], bool]
"""(reason, what to journal with it) -> whether it has gone back."""

_ENDED_AS = {"stop": Outcome.STOPPED, "remove": Outcome.REMOVED}


@dataclass(kw_only=True)
class Run:
    """One transaction under way. cancelled: the reason to stop waiting, or ""; resumed: an operator
    keeps what its checks would not; pause: waits for seconds, or until one of the two is said; give_up: from now on it is
    cancelled; offer: what a command may call to have it go back at once (None: no more); recovered: an earlier executor
    began it; tries: how often it waited for what was out of reach."""

    context: Context
    dataplane: Dataplane
    sweeper: Sweeper
    supervisor: Supervisor
    trust: Trust
    cancelled: Callable[[], str]
    resumed: Callable[[], bool]
    pause: Callable[[float], None]
    give_up: Callable[[str], None]
    offer: Callable[[TurnBack | None], None]
    recovered: bool = False
    tries: int = 0

    def move(
        self,
        row: TransactionRow,
        state: State,
        *,
        reason: str = "",
        rule: str = "",
        roles: dict[str, Role] | None = None,
        via: State | None = None,
        cutover: bool = False,
        also: Callable[[], None] | None = None,
    ) -> TransactionRow:
        """Journal a transition (with `via`, two in one commit) together with new roles and `also`, then say so."""
        context = self.context
        entered = (state,) if via is None else (via, state)
        for one in entered:
            faults.point(f"state.{one.value.lower()}.before")
        with context.database.atomically():
            now = context.clock.now_ms()
            if roles:
                context.work.set_roles(roles)
            if also is not None:
                also()
            if via is not None:
                row = context.work.move(row, via, now=now, reason=reason)
                if via in _SAID:
                    self.say(row)
            row = context.work.move(row, state, now=now, reason=reason, rule=rule, cutover=cutover)
            # in the same commit: whoever waits for a receipt must not wait for one that a crash swallowed
            self.say(row)
        for one in entered:
            faults.point(f"state.{one.value.lower()}.after")
        return row

    def say(self, row: TransactionRow) -> None:
        """Tell people and the controller what state a transaction is in."""
        text, severity, outcome = _SAID[row.state]
        text = _SAID_LIVE.get(row.state, text) if row.live else text
        what = f"{row.service}: {row.kind} to release {row.to_counter}: {text}"
        self.context.event(
            f"transaction.{row.state.value.lower().replace('_', '-')}",
            f"{what}: {row.reason}" if row.reason else what,
            severity=severity,
            service=row.service,
            facts={"transaction": str(row.id), "counter": str(row.to_counter), "nonce": row.nonce, "rule": row.rule},
        )
        if row.state is State.COMMITTED:
            outcome = _ENDED_AS.get(row.kind, outcome)
        if outcome is not None and row.nonce:
            self.context.receipt_for(row, outcome)

    def sides(self, row: TransactionRow) -> tuple[tuple[InstanceRow, ...], tuple[InstanceRow, ...]]:
        """Return (new, old) instances of an open transaction, whatever their roles are by now. One that replaces files alone
        has no old ones: those that run are its new ones."""
        rows = self.context.work.instances(row.service)
        if row.live:
            return tuple(one for one in rows if one.role is Role.SERVING), ()
        new = tuple(one for one in rows if one.txn == row.id and one.role in (Role.NEW, Role.SERVING))
        if row.cutover:
            return new, tuple(one for one in rows if one.role is Role.OLD)
        plan = local.plan_sides(
            kind=row.kind, epoch=row.epoch, to_counter=row.to_counter, replicas=row.replicas, instances=rows
        )
        return new, plan.old
