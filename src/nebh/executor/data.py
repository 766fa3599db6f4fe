"""A service's data within a transaction: one writer at a time, a snapshot before the new release may write, and the way
back.

The order of things keeps the triple whole: the old instances have ended before a snapshot is taken, all snapshots are
whole before the journal says that the new release may write, and the journal says so before anything of it starts. So
whoever finds the journal knows what the data is: of the old release until then, of the new one after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.sizes import RULE, sizes_for_update
from nebh.model.errors import Failed, Refused
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.kept import SnapshotKind, SnapshotRow, VolumeRow
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.stored import VolumePlan, stored_name
from nebh.model.volume import VolumeClass
from nebh.model.work import InstanceRow, TransactionRow
from nebh.planning import data, local

SAME_DATA: Final = frozenset({"restart", "scale", *local.ENDING})
"""Kinds of transactions that leave the release, and so the data, as it is."""


@dataclass(frozen=True, kw_only=True)
class Owned:
    """One volume of one allocation. row: None while it is not journalled."""

    replica: int
    part: data.Mounted
    stored: str
    row: VolumeRow | None


def owned(context: Context, policy: Policy, release: Release, *, replicas: int) -> tuple[Owned, ...]:
    """Return the volumes that outlive instances, of every allocation."""
    known = {(one.replica, one.name): one for one in context.volumes.volumes(release.service)}
    return tuple(
        Owned(
            replica=replica,
            part=part,
            stored=stored_name(service=release.service, volume=part.bound.name, replica=replica),
            row=known.get((replica, part.bound.name)),
        )
        for replica in range(replicas)
        for part in data.mounted(policy, release)
        if part.bound.kind is not VolumeClass.TEMP
    )


def _of(context: Context, row: TransactionRow) -> tuple[Owned, ...]:
    """Return the volumes that a transaction's release writes alone."""
    release = context.accepted.release(row.service, row.epoch, row.to_counter)
    if release is None or row.live or row.kind in local.ENDING:
        return ()
    policy = context.policy(row.service) if context.brings_policy(row) else context.effective(row.service)
    return tuple(one for one in owned(context, policy, release, replicas=row.replicas) if one.part.exclusive)


def stands_alone(context: Context, row: TransactionRow) -> bool:
    """Tell whether the old side must have ended before the new one starts, because one of the two owns data."""
    if row.live or row.kind in local.ENDING:
        return False
    return bool(_of(context, row)) or _old_owns(context, row)


def _old_owns(context: Context, row: TransactionRow) -> bool:
    known, policy = context.work.service(row.service), context.accepted.effective(row.service)
    if known is None or policy is None or not row.from_counter:
        return False
    old = context.accepted.release(row.service, known.epoch, row.from_counter)
    return old is not None and data.owns_data(policy, old)


def yields(context: Context, row: TransactionRow) -> bool:
    """Tell whether a transaction ends the old instances before the new ones start."""
    if row.live:
        return False
    release = context.accepted.release(row.service, row.epoch, row.to_counter)
    return (release is not None and not release.update.overlap) or stands_alone(context, row)


def make_volumes(context: Context, row: TransactionRow, release: Release) -> None:
    """PREPARING: have every volume there, and refuse a release that cannot run on the data as it is. Raises Refused,
    Failed."""
    policy = context.policy(row.service) if context.brings_policy(row) else context.effective(row.service)
    strange = data.unknown_volumes(policy, release)
    if strange:
        raise Refused(
            f"cannot accept release {row.to_counter} of {row.service}: its policy knows no volume {', '.join(strange)}",
            rule=RULE,
            hint="deploy with an operator's key, so that the policy is signed with it",
        )
    found = owned(context, policy, release, replicas=row.replicas)
    if found or release.volumes:
        context.storage()
    if row.kind != "restore":
        for one in found:
            fit = data.may_read(release, one.row.version if one.row is not None and one.part.snapshotted else 0)
            if not fit.ok:
                raise Refused(
                    f"cannot run release {row.to_counter} of {row.service}: {fit.reason}", rule=RULE, hint=fit.hint
                )
    with context.data_lock(row.service):
        sizes = sizes_for_update(context, ((one.stored, one.part.bound) for one in found)) if found else {}
        for one in found:
            _make(context, row, release, one, size=sizes[one.stored])


def _make(context: Context, row: TransactionRow, release: Release, one: Owned, *, size: int) -> None:
    context.volumes.add_volume(
        VolumeRow(
            service=row.service,
            replica=one.replica,
            name=one.part.bound.name,
            epoch=row.epoch,
            counter=0,
            version=0,
            made_at=context.clock.now_ms(),
        )
    )
    owner = one.part.mount.user or release.user
    with effect(context, row.id, "prepare.volumes"):
        context.drivers.volumes.make(VolumePlan(name=one.stored, quota=size, uid=owner, gid=owner))


def begin_writing(context: Context, row: TransactionRow, release: Release, *, new: tuple[InstanceRow, ...]) -> bool:
    """STARTING, the instances that `new` replaces have ended: keep the data as it is, bring back what is to be restored, and journal
    that the new release may write. Tell whether its migrations are to run: the release is new here, or its data is
    older than what it writes. Raises Failed."""
    replicas = {one.replica for one in new}
    volumes = tuple(one for one in _of(context, row) if one.replica in replicas)
    if not volumes:
        return False
    for other in context.work.instances(row.service):
        if other.txn == row.id or other.replica not in replicas:
            continue  # another allocation has data of its own
        if context.drivers.containers.observe(other.id).status is Status.RUNNING:
            raise Failed(f"cannot give the data of {row.service} to release {row.to_counter}: {other.id} still runs")
    if row.kind not in SAME_DATA:
        _keep(context, row, volumes)
    if row.kind == "restore":
        _bring_back(context, row, volumes)
        volumes = tuple(one for one in _of(context, row) if one.replica in replicas)
    writes = release.data.writes
    older = any(one.part.snapshotted and one.row is not None and one.row.version < writes for one in volumes)
    known = context.accepted.release_row(row.service, row.epoch, row.to_counter)
    fresh = row.kind == "deploy" and (known is None or not known.committed_at)
    with context.database.atomically():
        for one in volumes:
            if one.row is not None and not one.part.mount.read_only:
                version = max(one.row.version, writes)  # who reads newer data does not make it older
                context.volumes.note_writer(one.row, epoch=row.epoch, counter=row.to_counter, version=version)
    return fresh or older


def _keep(context: Context, row: TransactionRow, volumes: tuple[Owned, ...]) -> None:
    """Take this transaction's snapshots of what somebody has written."""
    for one in volumes:
        if one.row is None or not (one.row.counter or one.row.version):
            continue  # nobody has written, nor was it cloned
        if not one.part.snapshotted and _replacement(context, row, one) is None:
            continue
        if row.kind != "restore" and (one.row.epoch, one.row.counter) == (row.epoch, row.to_counter):
            continue  # it is this release's already
        kept = SnapshotRow(
            service=row.service,
            replica=one.replica,
            volume=one.row.name,
            name=kept_name(row),
            kind=SnapshotKind.RELEASE,
            txn=row.id,
            epoch=one.row.epoch,
            counter=one.row.counter,
            version=one.row.version,
            taken_at=context.clock.now_ms(),
        )
        context.volumes.begin_snapshot(kept)
        with effect(context, row.id, "data.snapshot"):
            context.drivers.volumes.snapshot(one.stored, kept.name)
        context.volumes.note_whole(kept)


def kept_name(row: TransactionRow) -> str:
    """Return the name of the snapshots that a transaction takes before its release may write."""
    return f"t{row.id}"


def discarded_name(row: TransactionRow, *, back: bool) -> str:
    """Return the name under which a transaction puts away what it replaces. back: on its way back."""
    return f"{'b' if back else 'd'}{row.id}"


def _bring_back(context: Context, row: TransactionRow, volumes: tuple[Owned, ...]) -> None:
    """A restore: the data as its release last had it; what there was is kept under a name of its own."""
    for one in volumes:
        wished = _replacement(context, row, one)
        if one.row is None or wished is None:
            continue  # it did not exist then, or stays
        _discard(context, row, one, back=False)
        with effect(context, row.id, "data.restore"):
            context.drivers.volumes.restore(one.stored, wished.name, keep_as=discarded_name(row, back=False))
        context.volumes.note_writer(one.row, epoch=wished.epoch, counter=wished.counter, version=wished.version)


def _replacement(context: Context, row: TransactionRow, one: Owned) -> SnapshotRow | None:
    """Return what a restore puts in a volume's place, None = it stays as it is. A backup, what a person kept, and what
    one of them has replaced, come back whatever the volume's class."""
    found = _named(context, one, row.snapshot) if row.kind == "restore" else None
    if found is None or one.part.bound.kind is VolumeClass.STATE:
        return found
    return found if found.kind in (SnapshotKind.FETCHED, SnapshotKind.MANUAL, SnapshotKind.DISCARDED) else None


def _named(context: Context, one: Owned, name: str) -> SnapshotRow | None:
    if one.row is None:
        return None
    for kept in context.volumes.snapshots(one.row.service):
        if (kept.replica, kept.volume, kept.name) == (one.replica, one.row.name, name) and kept.whole:
            return kept
    return None


def _discard(context: Context, row: TransactionRow, one: Owned, *, back: bool) -> None:
    """Journal what a restore is about to put away."""
    if one.row is None:
        return
    release = context.accepted.release(row.service, row.epoch, row.to_counter)
    now = context.clock.now_ms()
    put_away = SnapshotRow(
        service=row.service,
        replica=one.replica,
        volume=one.row.name,
        name=discarded_name(row, back=back),
        kind=SnapshotKind.DISCARDED,
        txn=row.id,
        epoch=one.row.epoch,
        counter=one.row.counter,
        version=one.row.version,
        taken_at=now,
        until=now + (release.data.keep_discarded if release is not None else 0),
    )
    context.volumes.begin_snapshot(put_away)
    context.volumes.note_whole(put_away)  # the driver's restore keeps it, or nothing is replaced


# going back


def decide_back(context: Context, row: TransactionRow) -> data.DataChoice:
    """Return what going back does with the data: what was journalled, else what the policy says."""
    if row.data:
        return data.DataChoice(row.data)
    volumes = _of(context, row)
    if not volumes or row.kind in SAME_DATA:
        return data.DataChoice.NONE
    old = context.accepted.release(row.service, row.epoch, row.from_counter) if row.from_counter else None
    versions = {one.row.version for one in volumes if one.row is not None and one.part.snapshotted}
    staying = {one.row.version for one in volumes if one.row is not None and one.part.stays}
    wish = context.effective(row.service).on_failure_data
    return data.choose_on_failure(wish, old=old, versions=versions, staying=staying, cutover=row.cutover)


def end_writing(
    context: Context, row: TransactionRow, *, choice: data.DataChoice, new: tuple[InstanceRow, ...]
) -> None:
    """ROLLING_BACK, the new instances have ended: the data becomes what the old release is to find. May be repeated."""
    for instance in new:
        if context.drivers.containers.observe(instance.id).status is Status.RUNNING:
            raise Failed(f"cannot bring the data of {row.service} back: {instance.id} still runs")
    kept = {
        (one.replica, one.volume): one
        for one in context.volumes.snapshots(row.service, txn=row.id)
        if one.whole and one.kind is SnapshotKind.RELEASE
    }
    known = context.work.service(row.service)
    for one in _of(context, row):
        if one.row is None:
            continue
        if row.kind != "restore" and (one.row.epoch, one.row.counter) != (row.epoch, row.to_counter):
            continue  # the new release was never let at it
        before = kept.get((one.replica, one.row.name))
        stays = row.cutover and one.part.bound.kind is not VolumeClass.STATE  # once clients have written
        stays = stays and _replacement(context, row, one) is None
        if choice is data.DataChoice.RESTORE and before is not None and not stays:
            _restore_back(context, row, one, before)
        elif known is not None and row.from_counter:
            context.volumes.note_writer(one.row, epoch=known.epoch, counter=row.from_counter, version=one.row.version)


def _restore_back(context: Context, row: TransactionRow, one: Owned, before: SnapshotRow) -> None:
    if one.row is None:
        return
    if row.cutover:
        _discard(context, row, one, back=True)
    with effect(context, row.id, "data.restore"):
        context.drivers.volumes.restore(one.stored, before.name, keep_as=discarded_name(row, back=True))
    context.volumes.note_writer(one.row, epoch=before.epoch, counter=before.counter, version=before.version)


def say_back(context: Context, row: TransactionRow) -> None:
    """Tell people what became of the data."""
    choice = data.DataChoice(row.data)
    said = {
        data.DataChoice.RESTORE: "the data is as it was before the update",
        data.DataChoice.KEEP: "the data of the failed release is kept",
    }.get(choice)
    if said is None or not row.cutover:
        return
    context.event(
        "data.restored" if choice is data.DataChoice.RESTORE else "data.kept",
        f"{row.service}: {said}",
        severity=Severity.WARNING,
        service=row.service,
        hint=f"`nebh volume undo {row.service}` brings back what was put away"
        if choice is data.DataChoice.RESTORE
        else "",
        facts={"transaction": str(row.id)},
    )


# afterwards


def tidy_snapshots(context: Context, service: str) -> None:
    """Let journal and storage tell the same of snapshots, and drop those that no rule keeps; those of an open
    transaction stay. May be repeated at any time."""
    if not context.volumes.volumes(service) or context.work.open_transaction(service) is not None:
        return
    with context.data_lock(service):
        _tidy(context, service)


def _tidy(context: Context, service: str) -> None:
    _agree(context, service)
    known = context.work.service(service)
    release = context.accepted.release(service, known.epoch, known.counter) if known is not None else None
    if release is None:
        return
    rows = [
        one for one in context.volumes.snapshots(service) if one.kind is not SnapshotKind.BACKUP
    ]  # others see to those
    for one in {(row.replica, row.volume) for row in rows}:
        of_volume = [row for row in rows if (row.replica, row.volume) == one]
        spent = data.droppable(of_volume, keep=release.data.snapshots, now=context.clock.now_ms(), needed=frozenset())
        useless = tuple(row for row in of_volume if not row.whole)
        for row in (*useless, *spent):
            stored = stored_name(service=service, volume=row.volume, replica=row.replica)
            with effect(context, 0, "data.drop"):
                context.drivers.volumes.delete_snapshot(stored, row.name)
            context.volumes.forget_snapshot(row)


def _agree(context: Context, service: str) -> None:
    """A crash between the two leaves a snapshot that nobody knows, or a row without one. A volume is never touched."""
    rows = context.volumes.snapshots(service)
    stored = {one.name: {kept.name for kept in one.snapshots} for one in context.drivers.volumes.list()}
    for volume in context.volumes.volumes(service):
        name = stored_name(service=service, volume=volume.name, replica=volume.replica)
        known = {one.name: one for one in rows if (one.replica, one.volume) == (volume.replica, volume.name)}
        for stray in stored.get(name, set()) - set(known):
            with effect(context, 0, "data.drop"):
                context.drivers.volumes.delete_snapshot(name, stray)
        for lost in set(known) - stored.get(name, set()):
            if known[lost].kind is SnapshotKind.BACKUP:
                continue  # about to be taken
            context.volumes.forget_snapshot(known[lost])


def drop_unused(context: Context, row: TransactionRow) -> None:
    """After a way back before the cut-over: its snapshots are what the data is anyway."""
    if row.cutover:
        return
    for one in context.volumes.snapshots(row.service, txn=row.id):
        stored = stored_name(service=row.service, volume=one.volume, replica=one.replica)
        for name in (one.name, discarded_name(row, back=True)):
            with effect(context, 0, "data.drop"):
                context.drivers.volumes.delete_snapshot(stored, name)
        context.volumes.forget_snapshot(one)
