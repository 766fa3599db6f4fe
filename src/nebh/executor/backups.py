"""Backups of this node's volumes: on schedule and by order, one at a time, with or without a controller.

A job is journalled before it begins and until it has ended: whoever finds it goes on with it. A backup is of one moment:
all snapshots are taken while the writer rests, and only they are read.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from nebh.executor.backup_store import open_store, own_name, rule_of
from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.rest import at_rest
from nebh.journal.backups import Job
from nebh.model.backup import BackupRow, BackupRule, name_in_store, read_stored
from nebh.model.errors import Failed, NebhError, Refused
from nebh.model.event import Severity
from nebh.model.kept import SnapshotKind, SnapshotRow, VolumeRow
from nebh.model.quantities import render_size
from nebh.model.statement import Outcome
from nebh.model.stored import stored_name
from nebh.model.transaction import State
from nebh.model.work import Wanted
from nebh.planning import backups as plan

LOOK_S: Final = 5.0
_QUIET: Final = frozenset({State.ASSIGNED, State.PREPARING, State.PREPARED})
"""States of a transaction in which nothing touches the data yet."""


class BackupKeeper:
    """A thread of its own; it ends with the executor, and so does what it has started."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._old: set[str] = set()

    def start(self) -> None:
        """Begin, with what an earlier executor left undone."""
        threading.Thread(target=self._run, name="backups", daemon=True).start()

    def _run(self) -> None:
        while not self._context.stopping.is_set():
            try:
                self.look()
            except (NebhError, OSError) as error:
                if not self._context.stopping.is_set():
                    logging.getLogger(__name__).error("cannot look after backups: %s", error)
            self._context.errands.wait(LOOK_S)
            self._context.errands.clear()

    def look(self) -> None:
        """Begin what is due, and do all that is to be done now."""
        for service in self._context.work.services():
            if service.wanted is not Wanted.REMOVED and service.counter:
                self._look_at(service.service)
        for job in self._context.backups.open_jobs():
            if self._context.stopping.is_set():
                return
            self._do(job)

    def _look_at(self, service: str) -> None:
        context = self._context
        policy = context.accepted.effective(service)
        rule = policy.backup if policy is not None else None
        written = [one.made_at for one in context.volumes.volumes(service) if one.counter]
        if rule is None or not written:
            return
        now, since = context.clock.now_ms(), min(written)
        mine = [one.taken_at for one in context.backups.rows(service) if not one.listed]
        self._say_old(service, rule, newest=max(mine, default=0), since=since, now=now)
        if any(one.service == service and one.kind == "backup" for one in context.backups.open_jobs()):
            return
        ended = tuple(
            plan.Ended(begun_at=one.begun_at, ended_at=one.ended_at, failed=bool(one.failed))
            for one in context.backups.last_jobs(service)
        )
        late = plan.spread(context.accepted.meta("node_id"), service, every=rule.every)
        if plan.due_at(rule, ended, since=since, late=late) <= now:
            context.backups.begin(
                service=service, kind="backup", run=plan.run_name(now), nonce="", source="", percent=0, now=now
            )

    def _say_old(self, service: str, rule: BackupRule, *, newest: int, since: int, now: int) -> None:
        if not plan.is_old(rule, newest=newest, since=since, now=now):
            self._old.discard(service)
        elif service not in self._old:
            self._old.add(service)
            age = f"is {(now - newest) // 3_600_000} hours old" if newest else "has never been made"
            self._context.tell(
                "backup.old",
                f"{service}: its newest backup {age}, and should be made every {rule.every // 60_000} minutes",
                severity=Severity.ALARM,
                service=service,
                hint=f"`nebh events --service {service}` says why; `nebh backup run {service}` tries now",
            )

    # one job

    def _do(self, job: Job) -> None:
        context, failed, said = self._context, "", ""
        hint = ""
        try:
            with context.stores_lock:
                match job.kind:
                    case "backup":
                        done = self._back_up(job)
                        if done is None:
                            return  # later: an update has the data in its hands
                        said = done
                    case "verify":
                        open_store(context, job.service, cancelled=context.stopping.is_set).verify(percent=job.percent)
                        said = "the store of backups is whole" + (
                            f", {job.percent} % of it read" if job.percent else ""
                        )
                    case _:
                        said = self._list(job)
        except (NebhError, OSError) as error:
            if context.stopping.is_set():
                return  # the next executor goes on
            failed = str(error)
            hint = error.hint if isinstance(error, NebhError) else ""
            self._say_failed(job, error)
        if job.kind == "backup":
            self._drop_snapshots(job)
        self._end(job, said=said, failed=failed, hint=hint)

    def _end(self, job: Job, *, said: str, failed: str, hint: str) -> None:
        context = self._context
        with context.database.atomically():
            context.backups.end(job, failed=failed, now=context.clock.now_ms())
            if not failed:
                context.event(
                    {"backup": "backup.made", "verify": "backup.verified"}.get(job.kind, "backup.listed"),
                    f"{job.service}: {said}",
                    service=job.service,
                    facts={"backup": job.run} if job.kind == "backup" else {},
                )
            if job.nonce:
                outcome = Outcome.FAILED if failed else Outcome.DONE
                context.receipt(outcome, nonce=job.nonce, service=job.service, detail=failed or said, hint=hint)

    def _say_failed(self, job: Job, error: NebhError | OSError) -> None:
        what = {"backup": f"backup {job.run}", "verify": "verifying its backups"}.get(job.kind, "listing its backups")
        self._context.tell(
            "backup.failed",
            f"{job.service}: {what} failed: {error}",
            severity=Severity.ALARM,
            service=job.service,
            hint=error.hint if isinstance(error, NebhError) and error.hint else "it is tried again by itself",
            facts={"rule": error.rule} if isinstance(error, Refused) else {},
        )

    # a backup

    def _back_up(self, job: Job) -> str | None:
        """Return what was done, None when it has to wait."""
        rule = rule_of(self._context, job.service)
        if job.stage == "sent":  # an executor was killed after that; its snapshots may be gone already
            made = [one for one in self._context.backups.rows(job.service) if one.run == job.run and not one.listed]
        elif job.stage == "kept" or self._take_snapshots(job, rule):
            made = [self._send(job, one) for one in self._snapshots(job)]
        else:
            return None
        if not made:
            raise Failed(f"cannot back up {job.service}: the snapshots are not there any more")
        self._context.backups.set_stage(job, "sent")
        self._forget(job, rule, made)
        size = render_size(sum(one.bytes for one in made))
        what = ", ".join(sorted({one.volume for one in made}))
        return f"backup {job.run} is in the store: {what}, {size}"

    def _take_snapshots(self, job: Job, rule: BackupRule) -> bool:
        """Keep the state of now of all volumes; tell whether that could be done."""
        context = self._context
        with context.data_lock(job.service):
            current = context.work.open_transaction(job.service)
            if current is not None and current.state not in _QUIET:
                return False
            if job.stage == "resting":  # an executor was killed in the middle of it
                self._drop_snapshots(job)
            volumes = self._volumes(job, rule)
            context.storage()
            context.backups.set_stage(job, "resting")
            with at_rest(context, job.service, {one.replica for one in volumes}, prefix="backup"):
                for one in volumes:
                    self._keep(job, one)
            context.backups.set_stage(job, "kept")
        return True

    def _volumes(self, job: Job, rule: BackupRule) -> tuple[VolumeRow, ...]:
        names = plan.chosen(self._context.effective(job.service), rule)
        found = [one for one in self._context.volumes.volumes(job.service) if one.name in names and one.counter]
        if not found:
            raise Failed(f"cannot back up {job.service}: nobody has written to its volumes yet")
        return tuple(found)

    def _keep(self, job: Job, one: VolumeRow) -> None:
        context = self._context
        row = SnapshotRow(
            service=one.service,
            replica=one.replica,
            volume=one.name,
            name=job.run,
            kind=SnapshotKind.BACKUP,
            txn=0,
            epoch=one.epoch,
            counter=one.counter,
            version=one.version,
            taken_at=context.clock.now_ms(),
        )
        context.volumes.begin_snapshot(row)
        with effect(context, 0, "backup.snapshot"):
            context.drivers.volumes.snapshot(_stored(row), row.name)
        context.volumes.note_whole(row)

    def _snapshots(self, job: Job) -> tuple[SnapshotRow, ...]:
        rows = self._context.volumes.snapshots(job.service)
        return tuple(one for one in rows if one.kind is SnapshotKind.BACKUP and one.name == job.run)

    def _send(self, job: Job, one: SnapshotRow) -> BackupRow:
        context = self._context
        folder = context.drivers.volumes.snapshot_path(_stored(one), one.name)
        store = open_store(context, job.service, reads=(folder,), cancelled=context.stopping.is_set)
        name = name_in_store(job.run, epoch=one.epoch, counter=one.counter, version=one.version)
        with effect(context, 0, "backup.send"):
            store.init()
            made = store.backup(folder, volume=_stored(one), snapshot=name)
        row = BackupRow(
            run=job.run,
            service=one.service,
            replica=one.replica,
            volume=one.volume,
            source=own_name(context),
            id=made.id,
            digest=made.digest,
            bytes=made.bytes,
            taken_at=one.taken_at,
            epoch=one.epoch,
            counter=one.counter,
            version=one.version,
        )
        context.backups.add(row)
        return row

    def _forget(self, job: Job, rule: BackupRule, made: list[BackupRow]) -> None:
        """What need not be kept goes from the store; that it does not go yet is no failed backup."""
        context = self._context
        try:
            store = open_store(context, job.service, cancelled=context.stopping.is_set)
            for one in made:
                with effect(context, 0, "backup.forget"):
                    gone = store.forget(one.stored.volume, rule.keep, never=frozenset({one.id}))
                if job.stage == "sent":  # what went before the kill was not written down
                    gone += self._lost(one, {kept.id for kept in store.list()})
                for identity in gone:
                    context.backups.forget(identity)
        except (NebhError, OSError) as error:
            if not context.stopping.is_set():
                context.tell(
                    "backup.untidy", f"{job.service}: old backups stay in the store: {error}", service=job.service
                )

    def _lost(self, made: BackupRow, there: set[str]) -> tuple[str, ...]:
        rows = self._context.backups.rows(made.service)
        same = (made.source, made.replica, made.volume)
        return tuple(one.id for one in rows if (one.source, one.replica, one.volume) == same and one.id not in there)

    def _drop_snapshots(self, job: Job) -> None:
        context = self._context
        for one in self._snapshots(job):
            with effect(context, 0, "backup.drop"):
                context.drivers.volumes.delete_snapshot(_stored(one), one.name)
            context.volumes.forget_snapshot(one)

    # looking into the store

    def _list(self, job: Job) -> str:
        context = self._context
        source = job.source or own_name(context)
        store = open_store(context, job.service, source=source, cancelled=context.stopping.is_set)
        rows = tuple(filter(None, (read_stored(one, source=source) for one in store.list())))
        mine = [one for one in rows if one.service == job.service]
        for one in mine:
            context.backups.add(one)
        return f"the store has {len({one.run for one in mine})} backups of {source}"


def _stored(row: SnapshotRow) -> str:
    return stored_name(service=row.service, volume=row.volume, replica=row.replica)
