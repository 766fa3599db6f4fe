"""The data of services: what there is, and orders that bring it back."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from nebh.cli.orders import LATER, report_on, send_and_follow, send_order
from nebh.cli.output import Output, confirm
from nebh.cli.rollout import INTERRUPTED, SLACK, interrupted
from nebh.cli.session import Session
from nebh.cli.show import clock
from nebh.cli.watch import failure_of
from nebh.model.api import NodeView
from nebh.model.errors import BadInput, NotFound
from nebh.model.kept import SnapshotKind, SnapshotRow, VolumeRow
from nebh.model.node import NodeRecord
from nebh.model.statement import Action
from nebh.wire import codec


def show_volumes(options: argparse.Namespace, out: Output) -> int:
    """List volumes."""
    found = list(volumes_of(Session(options, out), options.service))
    if out.json_wanted:
        out.document({"volumes": [{"node": node.name, **_plain(one)} for node, one in found]})
        return 0
    heads = ("SERVICE", "REPLICA", "VOLUME", "NODE", "DATA", "WRITTEN BY", "STATE")
    rows = [
        (
            one.service,
            one.replica,
            one.name,
            node.name,
            f"version {one.version}" if one.version else "-",
            f"release {one.counter}" if one.counter else "nobody yet",
            one.damaged or "ready",
        )
        for node, one in found
    ]
    out.table(heads, rows)
    return 0


def show_snapshots(options: argparse.Namespace, out: Output) -> int:
    """List what is kept of the data."""
    found = list(snapshots_of(Session(options, out), options.service))
    if out.json_wanted:
        out.document({"snapshots": [{"node": node.name, **_plain(one)} for node, one in found]})
        return 0
    heads = ("SERVICE", "REPLICA", "VOLUME", "NODE", "NAME", "HOLDS", "TAKEN", "KEPT")
    rows = [
        (
            one.service,
            one.replica,
            one.volume,
            node.name,
            one.name,
            f"{f'release {one.counter}' if one.counter else 'a clone'}, data version {one.version}",
            clock(one.taken_at),
            kept_until(one),
        )
        for node, one in found
    ]
    out.table(heads, rows)
    return 0


def kept_until(one: SnapshotRow) -> str:
    """Return by which rule a snapshot is kept, for people."""
    match one.kind:
        case SnapshotKind.DISCARDED:
            return f"put aside, until {clock(one.until)}"
        case SnapshotKind.RELEASE:
            return "before an update, by its release's rule"
        case SnapshotKind.MANUAL:
            return "by hand, until it is deleted"
        case SnapshotKind.BACKUP:
            return "while it is copied to the store"
        case SnapshotKind.FETCHED:
            return f"from a backup, until {clock(one.until)}" if one.until else "from a backup, for its restore"


def undo(options: argparse.Namespace, out: Output) -> int:
    """Bring back what a restore put aside."""
    session = Session(options, out)
    found = [
        one
        for _, one in snapshots_of(session, options.service)
        if (one.name == options.snapshot if options.snapshot else one.kind is SnapshotKind.DISCARDED)
    ]
    if not found:
        what = f"snapshot {options.snapshot}" if options.snapshot else "data that was put aside"
        raise NotFound(
            f"cannot bring back data of {options.service}: there is no {what}",
            hint=f"`nebh volume snapshots {options.service}` lists what is kept",
        )
    newest = max(found, key=lambda one: one.taken_at)
    return restore(session, options, out, counter=newest.counter, snapshot=newest.name)


def restore(session: Session, options: argparse.Namespace, out: Output, *, counter: int = 0, snapshot: str = "") -> int:
    """Order the nodes of a service to bring data back together with its release; follow them. counter 0: the release
    before the one that is on trial."""
    service = options.service
    nodes = _owners(session, service)
    what = (
        f"release {counter} of {service} with its data"
        if counter
        else f"{service} with the data from before the update"
    )
    if not confirm(f"Go back to {what}? What was written since is put aside.", yes=options.yes):
        raise BadInput("nothing was changed: nobody agreed", hint="--yes agrees in scripts")

    def send() -> str:
        return send_order(
            session,
            session.state(),
            action=Action.RESTORE,
            service=service,
            nodes=nodes,
            life=LATER,
            counter=counter,
            snapshot=snapshot,
        )

    try:
        followed = send_and_follow(session, send, service=service, nodes=nodes, timeout=options.timeout or SLACK)
    except KeyboardInterrupt:
        interrupted(service, f"restoring the data of {service}", undo=f"nebh volume undo {service}")
        return INTERRUPTED
    status = report_on(out, followed, service, failure_of(followed, what=what))
    if not out.json_wanted:
        out.say(f"take it back with: nebh volume undo {service}")
    return status


def _owners(session: Session, service: str) -> tuple[NodeRecord, ...]:
    """Return the nodes that hold data of a service. Raises NotFound."""
    names = {node.name for node, _ in volumes_of(session, service)}
    found = tuple(one for one in session.state().trusted.nodes.nodes if one.name in names)
    if not found:
        raise NotFound(
            f"cannot restore the data of {service}: no node reports a volume of it",
            hint="`nebh volume list` shows what there is",
        )
    return found


def volumes_of(session: Session, service: str) -> Iterator[tuple[NodeView, VolumeRow]]:
    """Yield the volumes of a service ("" = of all) as nodes report them."""
    for node in session.client.nodes():
        for one in node.report.volumes if node.report is not None else ():
            if service in ("", one.service):
                yield node, one


def snapshots_of(session: Session, service: str) -> Iterator[tuple[NodeView, SnapshotRow]]:
    """Yield what is kept of a service ("" = of all) as nodes report it."""
    for node in session.client.nodes():
        for one in node.report.snapshots if node.report is not None else ():
            if service in ("", one.service) and one.whole:
                yield node, one


def _plain(one: VolumeRow | SnapshotRow) -> dict[str, object]:
    plain: dict[str, object] = codec.to_plain(one)
    return plain
