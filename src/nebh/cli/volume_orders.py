"""Orders about volumes: keep a snapshot now, go back to one, let another service begin with one, delete one."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from nebh.cli.orders import LATER, report_on, send_and_follow, send_order
from nebh.cli.output import Output, confirm
from nebh.cli.rollout import INTERRUPTED, SLACK, interrupted
from nebh.cli.session import Session
from nebh.cli.volumes import restore as restore_data
from nebh.cli.volumes import snapshots_of, volumes_of
from nebh.cli.watch import failure_of
from nebh.model.errors import BadInput, NotFound
from nebh.model.kept import SnapshotKind, SnapshotRow
from nebh.model.node import NodeRecord
from nebh.model.statement import Action, Outcome

_DONE = frozenset({Outcome.DONE, Outcome.REFUSED, Outcome.FAILED})


def snapshot(options: argparse.Namespace, out: Output) -> int:
    """Take a snapshot now."""
    service, volume = split_volume(options.what)
    session = Session(options, out)
    holders = {node.name for node, one in volumes_of(session, service) if volume in ("", one.name)}
    if not holders:
        raise NotFound(
            f"cannot take a snapshot of {options.what}: no node reports such a volume",
            hint="`nebh volume list` shows what there is",
        )
    return _order(
        session,
        options,
        Action.SNAPSHOT,
        service=service,
        volume=volume,
        holders=holders,
        what=f"the snapshot of {options.what}",
        ahead=lambda nonce: {"snapshot": f"m{nonce[:12]}"},
        then=lambda nonce: f"go back to it with: nebh volume restore {service} m{nonce[:12]}",
    )


def restore(options: argparse.Namespace, out: Output) -> int:
    """Go back to a snapshot, with the release that wrote it."""
    session = Session(options, out)
    found = _find(session, options.service, "", options.snapshot)
    counter = options.to or max(one.counter for _, one in found)
    return restore_data(session, options, out, counter=counter, snapshot=options.snapshot)


def clone(options: argparse.Namespace, out: Output) -> int:
    """Let another service begin with the data of a snapshot."""
    service, volume = split_volume(options.what)
    target, _ = split_volume(options.to)
    session = Session(options, out)
    found = _find(session, service, volume, options.snapshot)
    if target == service:
        raise BadInput(
            f"cannot clone {options.what} to {options.to}: that is the same service",
            hint=f"`nebh volume restore {service} {options.snapshot}` goes back to it",
        )
    taken = sorted(
        f"{one.name} on {node.name}"
        for node, one in volumes_of(session, target)
        if one.counter and node.name in {name for name, _ in found}
    )
    if taken:
        raise BadInput(
            f"cannot clone data to {target}: it has data of its own ({', '.join(taken)})",
            hint="clone to a service that was not deployed there yet",
        )
    return _order(
        session,
        options,
        Action.CLONE,
        service=service,
        volume=volume,
        holders={name for name, _ in found},
        what=f"the clone for {options.to}",
        snapshot=options.snapshot,
        target=options.to,
        then=lambda _: f"deploy {target} now, onto the same node: it starts on this data",
    )


def delete_snapshot(options: argparse.Namespace, out: Output) -> int:
    """Delete a snapshot."""
    service, volume = split_volume(options.what)
    session = Session(options, out)
    found = _find(session, service, volume, options.snapshot)
    what = ", ".join(sorted({one.volume for _, one in found}))
    aside = any(one.kind is SnapshotKind.DISCARDED for _, one in found)
    more = " It is what a restore put aside: nothing brings it back then." if aside else ""
    if not confirm(f"Delete snapshot {options.snapshot} of {service} ({what})?{more}", yes=options.yes):
        raise BadInput("nothing was deleted: nobody agreed", hint="--yes agrees in scripts")
    return _order(
        session,
        options,
        Action.DELETE_SNAPSHOT,
        service=service,
        volume=volume,
        holders={name for name, _ in found},
        what=f"deleting snapshot {options.snapshot} of {service}",
        snapshot=options.snapshot,
        force=options.force,
    )


def split_volume(text: str) -> tuple[str, str]:
    """Return (service, volume) of `SERVICE[/VOLUME]`; volume "" = all. Raises BadInput."""
    from nebh.model.names import check_name

    service, slash, volume = text.partition("/")
    check_name(service, what="service")
    return service, check_name(volume, what="volume") if slash else ""


def _find(session: Session, service: str, volume: str, name: str) -> list[tuple[str, SnapshotRow]]:
    """Return (node, snapshot) of a name. Raises NotFound."""
    found = [
        (node.name, one)
        for node, one in snapshots_of(session, service)
        if one.name == name and volume in ("", one.volume)
    ]
    if not found:
        of = f"{service}/{volume}" if volume else service
        raise NotFound(
            f"cannot find snapshot {name} of {of}", hint=f"`nebh volume snapshots {service}` lists what is kept"
        )
    return found


def _order(
    session: Session,
    options: argparse.Namespace,
    action: Action,
    *,
    service: str,
    volume: str,
    holders: set[str],
    what: str,
    snapshot: str = "",
    target: str = "",
    force: bool = False,
    ahead: Callable[[str], dict[str, object]] = lambda _: {},
    then: Callable[[str], str] = lambda _: "",
) -> int:
    """Sign an order for the nodes that hold the data and follow it. ahead: of the JSON document, then: what to say at
    the end, both by the order's nonce."""
    nodes = nodes_named(session, holders)

    def send() -> str:
        return send_order(
            session,
            session.state(),
            action=action,
            service=service,
            nodes=nodes,
            life=LATER,
            volume=volume,
            snapshot=snapshot,
            target=target,
            force=force,
        )

    try:
        followed = send_and_follow(
            session, send, service=service, nodes=nodes, timeout=options.timeout or SLACK, ends=_DONE
        )
    except KeyboardInterrupt:
        interrupted(service, what, undo=f"nebh volume snapshots {service}")
        return INTERRUPTED
    status = report_on(session.out, followed, service, failure_of(followed, what=what), more=ahead(followed.nonce))
    said = then(followed.nonce)
    if said and not session.out.json_wanted:
        session.out.say(said)
    return status


def nodes_named(session: Session, names: set[str]) -> tuple[NodeRecord, ...]:
    """Return the signed records of nodes by name."""
    return tuple(one for one in session.state().trusted.nodes.nodes if one.name in names)
