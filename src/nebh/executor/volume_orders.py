"""Orders about volumes that no update is needed for: a snapshot now, a clone for another service, a snapshot less.

Each is journalled when it is taken, carried out by a thread of its own, and ended together with its receipt. Whoever
finds it open after a crash does it again from the start: every step may be repeated.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import threading

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.rest import at_rest
from nebh.executor.sizes import RULE as DATA_RULE
from nebh.executor.volume_clone import clone_volumes
from nebh.model.errors import BadInput, Conflict, NebhError, NotFound, Refused
from nebh.model.kept import SnapshotKind, SnapshotRow, VolumeRow
from nebh.model.statement import Action, Order, Outcome
from nebh.model.stored import stored_name
from nebh.model.transaction import State
from nebh.planning.data import is_last_good, may_snapshot
from nebh.signing.statements import peek_statement

ACTIONS = frozenset({Action.SNAPSHOT, Action.DELETE_SNAPSHOT, Action.CLONE})
_WORDS = {
    Action.SNAPSHOT: "take a snapshot",
    Action.DELETE_SNAPSHOT: "delete a snapshot",
    Action.CLONE: "clone data",
}
NOTHING_CHANGED = frozenset({State.ASSIGNED, State.PREPARING, State.PREPARED})
"""An update in one of these states has not come to the data yet, and waits while an order works on it."""


class VolumeOrders:
    """See above. `begin` and `recover` return at once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._under_way: set[str] = set()

    def begin(self, wish: Order, envelope: bytes) -> None:
        """Journal an order and have it carried out. Raises BadInput, NotFound, Conflict, Refused."""
        self._check(wish)
        text = base64.b64encode(envelope).decode()
        self._context.volumes.begin_order(nonce=wish.nonce, service=wish.service, envelope=text)
        self._context.database.then(lambda: self._start(wish))

    def _check(self, wish: Order) -> None:
        """What can be said before anything is begun."""
        self._not_during_an_update(wish)
        match wish.action:
            case Action.SNAPSHOT:
                self._to_snapshot(wish)
            case Action.DELETE_SNAPSHOT:
                self._to_delete(wish)
            case _:
                self._to_clone(wish)

    def took(self, envelope: bytes) -> bool:
        """Tell whether exactly these bytes were taken before."""
        return self._context.volumes.knows_order(base64.b64encode(envelope).decode())

    def recover(self) -> None:
        """After a start: do again what was under way."""
        for wish in self._open():
            self._start(wish)

    def busy(self) -> bool:
        """Tell whether an order is being carried out."""
        return bool(self._under_way)

    def _open(self) -> tuple[Order, ...]:
        found = self._context.volumes.open_orders()
        return tuple(peek_statement(base64.b64decode(one), "order", Order) for one in found)

    def _start(self, wish: Order) -> None:
        with self._lock:
            if wish.nonce in self._under_way:
                return
            self._under_way.add(wish.nonce)
        threading.Thread(target=self._work, args=(wish,), name=f"order {wish.nonce[:8]}", daemon=True).start()

    def _work(self, wish: Order) -> None:
        try:
            outcome, said, hint = self._outcome(wish)
            if self._context.stopping.is_set() and outcome is Outcome.FAILED:
                return  # what failed may have been the end of this program; the next one does it again
            with self._context.database.atomically():
                self._context.receipt(outcome, nonce=wish.nonce, service=wish.service, detail=said, hint=hint)
                self._context.volumes.end_order(wish.nonce)
        except NebhError as error:
            logging.getLogger(__name__).error("cannot journal an order on %s: %s", wish.service, error)
        finally:
            with self._lock:
                self._under_way.discard(wish.nonce)

    def _outcome(self, wish: Order) -> tuple[Outcome, str, str]:
        try:
            with (
                self._turn,
                self._context.data_lock(wish.service),
            ):  # one at a time: a clone takes a second service's lock
                self._not_during_an_update(wish)
                self._context.storage()
                match wish.action:
                    case Action.SNAPSHOT:
                        return Outcome.DONE, self._snapshot(wish), ""
                    case Action.DELETE_SNAPSHOT:
                        return Outcome.DONE, self._delete(wish), ""
                    case _:
                        return Outcome.DONE, clone_volumes(self._context, wish, self._to_clone(wish)), ""
        except (NebhError, OSError) as error:
            return Outcome.FAILED, str(error), error.hint if isinstance(error, NebhError) else ""

    def _not_during_an_update(self, wish: Order) -> None:
        current = self._context.work.open_transaction(wish.service)
        if current is None or (wish.action is Action.SNAPSHOT and current.state in NOTHING_CHANGED):
            return
        raise Conflict(
            f"cannot {_WORDS[wish.action]} of {wish.service}: a transaction to release {current.to_counter} is under way",
            hint=f"wait for it, or `nebh abort {wish.service}`",
        )

    # a snapshot

    def _to_snapshot(self, wish: Order) -> tuple[VolumeRow, ...]:
        rows = self._context.volumes.volumes(wish.service)
        named = tuple(one for one in rows if wish.volume in ("", one.name))
        if not named:
            known = ", ".join(sorted({one.name for one in rows})) or "none"
            what = f"volume {wish.volume} of {wish.service}" if wish.volume else f"volume of {wish.service}"
            raise NotFound(f"cannot take a snapshot: there is no {what} on this node", hint=f"here are: {known}")
        policy = self._context.accepted.policy(wish.service)
        fits = {one.name: may_snapshot(policy, one) for one in named}
        found = tuple(one for one in named if fits[one.name].ok)
        if not found:
            reasons = "; ".join(sorted({fit.reason for fit in fits.values()}))
            raise Refused(f"cannot take a snapshot of {wish.service}: {reasons}", rule=DATA_RULE)
        return found

    def _snapshot(self, wish: Order) -> str:
        name, longest = manual_name(wish), 0.0
        found = self._to_snapshot(wish)
        for replica in sorted({one.replica for one in found}):
            began = self._context.clock.monotonic()
            with at_rest(self._context, wish.service, (replica,), prefix="data"):
                self._take_all(tuple(one for one in found if one.replica == replica), name)
            longest = max(longest, self._context.clock.monotonic() - began)
        volumes = ", ".join(sorted({one.name for one in found}))
        said = f"{volumes} kept as {name}; nobody wrote for {longest * 1000:.0f} ms"
        self._context.event("data.snapshot", f"{wish.service}: {said}", service=wish.service, facts={"name": name})
        return said

    def _take_all(self, volumes: tuple[VolumeRow, ...], name: str) -> None:
        """All of them, or none: half a snapshot would be taken for a whole one."""
        try:
            for one in volumes:
                self._take(one, name)
        except NebhError:
            with contextlib.suppress(NebhError):
                self._drop(
                    tuple(one for one in self._context.volumes.snapshots(volumes[0].service) if one.name == name)
                )
            raise

    def _take(self, volume: VolumeRow, name: str) -> None:
        kept = SnapshotRow(
            service=volume.service,
            replica=volume.replica,
            volume=volume.name,
            name=name,
            kind=SnapshotKind.MANUAL,
            txn=0,
            epoch=volume.epoch,
            counter=volume.counter,
            version=volume.version,
            taken_at=self._context.clock.now_ms(),
        )
        self._context.volumes.begin_snapshot(kept)
        with effect(self._context, 0, "data.snapshot"):
            self._context.drivers.volumes.snapshot(stored_of(volume), name)
        self._context.volumes.note_whole(kept)

    # a snapshot less

    def _to_delete(self, wish: Order) -> tuple[SnapshotRow, ...]:
        rows = self._context.volumes.snapshots(wish.service)
        found = tuple(one for one in rows if one.name == wish.snapshot and wish.volume in ("", one.volume))
        if not found:
            raise NotFound(
                f"cannot delete a snapshot of {wish.service}: there is none of the name {wish.snapshot[:80]!r}",
                hint=f"`nebh volume snapshots {wish.service}` lists them",
            )
        if not wish.force and (last := [one for one in found if is_last_good(one, rows)]):
            raise Refused(
                f"cannot delete snapshot {wish.snapshot} of {wish.service}: it is the last good one of"
                f" {', '.join(sorted({one.volume for one in last}))}",
                rule=DATA_RULE,
                hint="the next update takes another; --force deletes it all the same",
            )
        return found

    def _delete(self, wish: Order) -> str:
        with contextlib.suppress(NotFound):  # a crash came between its end and the receipt
            self._drop(self._to_delete(wish))
        return f"{wish.snapshot} is gone"

    def _drop(self, snapshots: tuple[SnapshotRow, ...]) -> None:
        for one in snapshots:
            stored = stored_name(service=one.service, volume=one.volume, replica=one.replica)
            with effect(self._context, 0, "data.drop"):
                self._context.drivers.volumes.delete_snapshot(stored, one.name)
            self._context.volumes.forget_snapshot(one)

    # a clone

    def _to_clone(self, wish: Order) -> tuple[SnapshotRow, ...]:
        if wish.target.partition("/")[0] in ("", wish.service):
            raise BadInput(f"cannot clone data of {wish.service}: {wish.target!r} names no other service")
        rows = self._context.volumes.snapshots(wish.service)
        found = tuple(
            one for one in rows if one.name == wish.snapshot and one.whole and wish.volume in ("", one.volume)
        )
        if not found:
            raise NotFound(
                f"cannot clone data of {wish.service}: there is no snapshot {wish.snapshot[:80]!r} of it on this node",
                hint=f"`nebh volume snapshot {wish.service}` takes one, `nebh volume snapshots` lists them",
            )
        return found


def manual_name(wish: Order) -> str:
    """Return the name of the snapshots that an order takes: the same on every node, and after every crash."""
    return f"m{wish.nonce[:12]}"


def stored_of(volume: VolumeRow) -> str:
    """Return the name under which the storage knows a volume."""
    return stored_name(service=volume.service, volume=volume.name, replica=volume.replica)
