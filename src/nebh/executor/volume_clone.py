"""A service that begins with the data of another: clones of a snapshot in the place of volumes that nobody has written."""

from __future__ import annotations

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.model.errors import BadInput, Conflict, NebhError
from nebh.model.kept import SnapshotRow, VolumeRow
from nebh.model.names import check_name
from nebh.model.statement import Order
from nebh.model.stored import VolumePlan, stored_name


def clone_volumes(context: Context, wish: Order, snapshots: tuple[SnapshotRow, ...]) -> str:
    """Put clones of these snapshots where volumes of `wish.target` begin; return what to tell. May be repeated. Raises
    BadInput, Conflict, what the driver says."""
    service, _, volume = wish.target.partition("/")
    check_name(service, what="service")
    if volume and len({one.volume for one in snapshots}) > 1:
        raise BadInput(
            f"cannot clone {wish.snapshot} of {wish.service} to {wish.target}: it holds several volumes",
            hint=f"name one: {wish.service}/VOLUME",
        )
    with context.data_lock(service):
        if context.work.open_transaction(service) is not None:
            raise Conflict(
                f"cannot clone data to {service}: a transaction of it is under way", hint="wait for it, or abort it"
            )
        targets = tuple((one, _target(context, one, service, volume or one.volume)) for one in snapshots)
        for kept, row in targets:  # all are free, or nothing is begun
            _clone(context, kept, row)
    names = ", ".join(sorted({row.name for _, row in targets}))
    context.event(
        "data.cloned",
        f"{service}: {names} begins as {wish.snapshot} of {wish.service}",
        service=service,
        hint=f"deploy {service}: it starts on this data",
    )
    return f"{names} of {service} begins as {wish.snapshot} of {wish.service}"


def _target(context: Context, kept: SnapshotRow, service: str, volume: str) -> VolumeRow:
    known = context.volumes.volume(service, kept.replica, check_name(volume, what="volume"))
    if known is not None and known.counter:
        raise Conflict(
            f"cannot clone data to {service}/{volume}: release {known.counter} of {service} has written there",
            hint="clone to a service that has no data on this node yet",
        )
    return known or VolumeRow(
        service=service,
        replica=kept.replica,
        name=volume,
        epoch=0,
        counter=0,
        version=0,
        made_at=context.clock.now_ms(),
    )


def _clone(context: Context, kept: SnapshotRow, row: VolumeRow) -> None:
    source = stored_name(service=kept.service, volume=kept.volume, replica=kept.replica)
    stored = stored_name(service=row.service, volume=row.name, replica=row.replica)
    context.volumes.add_volume(row)
    plan = VolumePlan(name=stored, quota=_quota(context, row, source))
    try:
        with effect(context, 0, "data.clone"):
            if not row.version:  # empty, as a release that never started left it, or a clone that a crash cut short
                context.drivers.volumes.remove(stored)
            context.drivers.volumes.clone(source, snapshot=kept.name, to=plan)
    except NebhError:
        if not row.version:
            context.volumes.forget_volume(row)
        raise
    context.volumes.note_writer(row, epoch=0, counter=0, version=kept.version)


def _quota(context: Context, row: VolumeRow, source: str) -> int:
    """Return the size that the policy of the new owner says, else that of the origin."""
    policy = context.accepted.policy(row.service)
    bounds = {one.name: one.size for one in policy.volumes} if policy is not None else {}
    found = {one.name: one.quota for one in context.drivers.volumes.list()}
    return bounds.get(row.name, found.get(source, 0))
