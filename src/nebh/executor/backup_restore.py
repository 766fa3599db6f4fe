"""Backups that an order has restored: checked against what this node wrote down, then fetched into a snapshot while the
service runs on. From there on it is a restore like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nebh.executor.backup_store import open_store, rule_of
from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.run import Run
from nebh.model.backup import BackupRow, BackupWish
from nebh.model.errors import BadInput, Broken, Failed, NebhError, NotFound, Refused
from nebh.model.event import Severity
from nebh.model.kept import SnapshotKind, SnapshotRow
from nebh.model.names import is_digest
from nebh.model.statement import Action, Order
from nebh.model.work import ServiceRow, TransactionRow
from nebh.planning.backups import find_lie, run_name
from nebh.planning.data import may_read

RULE: Final = "backup"
KINDS: Final = {Action.BACKUP: "backup", Action.VERIFY_BACKUPS: "verify", Action.LIST_BACKUPS: "list"}
_WAIT: Final = 0.5


def order_job(context: Context, wish: Order) -> None:
    """Journal what an order wants done with a store; it is receipted when it is done. Raises NotFound."""
    rule_of(context, wish.service)
    if context.backups.knows(wish.nonce):
        return
    asked, now = wish.backup or BackupWish(), context.clock.now_ms()
    context.backups.begin(
        service=wish.service,
        kind=KINDS[wish.action],
        run=run_name(now),
        nonce=wish.nonce,
        source=asked.source,
        percent=asked.percent,
        now=now,
    )
    context.database.then(context.errands.set)


def check_restore(context: Context, wish: Order, service: ServiceRow) -> tuple[str, int]:
    """Note what is to be fetched; return (name of the snapshot it will be, release to run on it). Raises BadInput,
    NotFound, Refused."""
    rows = wish.backup.rows if wish.backup is not None else ()
    rule_of(context, wish.service)
    _check_shape(context, wish, rows)
    written = context.backups.rows(wish.service)
    for one in rows:
        lie = find_lie(one, tuple(other for other in written if not other.listed))
        if lie:
            raise Refused(
                f"cannot restore {wish.service}: {lie}",
                rule=RULE,
                hint="the controller, or who asked it, exchanged one backup for another; `nebh backup list` on the node"
                " itself, `nebh-executor status`, says what is true",
            )
    counter = wish.counter or rows[0].counter
    if context.accepted.release(wish.service, service.epoch, counter) is None and not wish.counter:
        counter = service.counter
    release = context.accepted.release(wish.service, service.epoch, counter)
    if release is None:
        raise NotFound(f"cannot restore {wish.service}: release {counter} of it is not known here")
    fit = may_read(release, max(one.version for one in rows))
    if not fit.ok:
        raise Refused(
            f"cannot restore {wish.service} for release {counter}: {fit.reason}",
            rule="data",
            hint="`--to RELEASE` names a release that reads the data of this backup",
        )
    snapshot = f"from-{rows[0].run}-{wish.nonce[:6]}"
    context.backups.wish(snapshot, rows)
    return snapshot, counter


def _check_shape(context: Context, wish: Order, rows: tuple[BackupRow, ...]) -> None:
    if not rows or {(one.service, one.run) for one in rows} != {(wish.service, rows[0].run)}:
        raise BadInput(f"cannot restore {wish.service}: the order does not name the volumes of one backup")
    for one in rows:
        if not is_digest(one.id) or not is_digest(one.digest):
            raise BadInput(f"cannot restore {wish.service}: {one.id[:80]!r} is no id of a backup")
        if context.volumes.volume(one.service, one.replica, one.volume) is None:
            raise NotFound(
                f"cannot restore {wish.service}: there is no volume {one.volume} of allocation {one.replica} here",
                hint="deploy the service as it was when the backup was made, then restore",
            )


def fetch_backups(run: Run, row: TransactionRow) -> None:
    """PREPARING a restore: have every backup that the order names here, as a snapshot. May be repeated. Raises Refused
    (with an alarm) for what is not what was written down, else what the store says."""
    if row.kind != "restore":
        return
    context = run.context
    whole = {(one.replica, one.volume) for one in context.volumes.snapshots(row.service) if _is_there(one, row)}
    for one in context.backups.wished(row.service, row.snapshot):
        if (one.replica, one.volume) in whole:
            continue
        now = context.clock.now_ms()
        kept = SnapshotRow(
            service=row.service,
            replica=one.replica,
            volume=one.volume,
            name=row.snapshot,
            kind=SnapshotKind.FETCHED,
            txn=row.id,
            epoch=row.epoch,
            counter=one.counter,
            version=one.version,
            taken_at=now,
            until=now,
        )
        context.volumes.begin_snapshot(kept)
        try:
            with effect(context, row.id, "backup.fetch"):
                _fetch(run, row, one)
        except (NebhError, OSError) as error:
            context.volumes.forget_snapshot(kept)
            if not isinstance(error, (Refused, Broken, NotFound)):
                raise
            context.event(
                "backup.refused",
                f"{row.service}: backup {one.run} is not in the store as it was written down: {error}",
                severity=Severity.ALARM,
                service=row.service,
                hint="it was exchanged, damaged or taken away; choose another, and find out who did",
                facts={"backup": one.run, "id": one.id, "rule": RULE},
            )
            raise
        context.volumes.note_whole(kept)


def _is_there(one: SnapshotRow, row: TransactionRow) -> bool:
    return one.whole and one.name == row.snapshot


def _fetch(run: Run, row: TransactionRow, one: BackupRow) -> None:
    context = run.context
    context.event(
        "backup.fetching",
        f"{row.service}: fetching volume {one.volume} of backup {one.run} ({one.bytes} bytes)",
        service=row.service,
    )

    def fill(place: Path) -> None:
        store = open_store(
            context,
            row.service,
            source=one.source,
            writes=(place.parent,),
            cancelled=lambda: bool(run.cancelled()) or context.stopping.is_set(),
        )
        store.restore(one.stored, into=place)

    while not context.stores_lock.acquire(timeout=_WAIT):
        if run.cancelled() or context.stopping.is_set():
            raise Failed(run.cancelled() or "the executor is stopping")
    try:
        context.drivers.volumes.receive(one.stored.volume, row.snapshot, fill)
    finally:
        context.stores_lock.release()
