"""Backups of services: made, listed, verified and restored by orders that an operator signs."""

from __future__ import annotations

import argparse

from nebh.cli.orders import LATER, report_on, send_and_follow, send_order
from nebh.cli.output import Output, confirm
from nebh.cli.rollout import INTERRUPTED, interrupted
from nebh.cli.session import Session
from nebh.cli.show import clock
from nebh.cli.watch import ENDS, Followed, failure_of
from nebh.model.backup import BackupRow, BackupWish
from nebh.model.errors import BadInput, NotFound
from nebh.model.node import NodeRecord
from nebh.model.quantities import render_size
from nebh.model.statement import Action, Outcome
from nebh.planning.backups import newest_run
from nebh.wire import codec

PATIENCE = 86_400.0
_DONE = frozenset({Outcome.DONE, Outcome.REFUSED, Outcome.FAILED})


def run_now(options: argparse.Namespace, out: Output) -> int:
    """Have a backup made."""
    session = Session(options, out)
    return _ask(session, options, out, action=Action.BACKUP, wish=None, what=f"a backup of {options.service}")


def verify(options: argparse.Namespace, out: Output) -> int:
    """Have a store checked."""
    if not 0 <= options.percent <= 100:
        raise BadInput(f"cannot read {options.percent} percent of the backups", hint="--percent takes 0 to 100")
    session = Session(options, out)
    what = f"verifying the backups of {options.service}"
    return _ask(
        session, options, out, action=Action.VERIFY_BACKUPS, wish=BackupWish(percent=options.percent), what=what
    )


def show(options: argparse.Namespace, out: Output) -> int:
    """List backups."""
    session = Session(options, out)
    if options.in_store:
        if not options.service:
            raise BadInput("cannot look into a store without a service", hint="nebh backup list SERVICE --in-store")
        wish = BackupWish(source=options.source)
        followed = _send(session, options, action=Action.LIST_BACKUPS, wish=wish)
        error = failure_of(followed, what=f"listing the backups of {options.service}")
        if error is not None:
            raise error
    found = [
        (node, one)
        for node, one in _rows(session, options.service)
        if options.node in ("", node) and options.source in ("", one.source)
    ]
    if out.json_wanted:
        out.document({"backups": [{"node": node, **codec.to_plain(one)} for node, one in found]})
        return 0
    heads = ("SERVICE", "BACKUP", "VOLUME", "MADE BY", "TAKEN", "HOLDS", "SIZE", "ID", "KNOWN FROM")
    lines = [
        (
            one.service,
            one.run,
            one.volume if not one.replica else f"{one.volume} of allocation {one.replica}",
            one.source,
            clock(one.taken_at),
            f"release {one.counter}, data version {one.version}",
            render_size(one.bytes),
            one.id[:12],
            "the store" if one.listed else node,
        )
        for node, one in found
    ]
    out.table(heads, lines)
    return 0


def restore(options: argparse.Namespace, out: Output) -> int:
    """Order a node to bring a backup back; follow it."""
    session = Session(options, out)
    service = options.service
    (node,) = _nodes(session, options, single=True)
    mine = [one for name, one in _rows(session, service) if name == node.name]
    rows = newest_run([one for one in mine if options.source in ("", one.source)], run=options.backup)
    if not rows:
        asked = f"backup {options.backup}" if options.backup else "backup"
        raise NotFound(
            f"cannot restore {service}: {node.name} has written down no {asked} of it",
            hint=f"`nebh backup list {service}` shows what there is; `--in-store` looks into the store, and then BACKUP"
            " has to be named",
        )
    from_store = ", known from the store alone" if any(one.listed for one in rows) else ""
    what = f"{service} on {node.name} with backup {rows[0].run} of {clock(rows[0].taken_at)}{from_store}"
    if not confirm(f"Go back to {what}? What was written since is put aside.", yes=options.yes):
        raise BadInput("nothing was changed: nobody agreed", hint="--yes agrees in scripts")
    try:
        followed = _send(
            session, options, action=Action.RESTORE, wish=BackupWish(rows=rows), counter=options.to, nodes=(node,)
        )
    except KeyboardInterrupt:
        interrupted(service, f"restoring {service}", undo=f"nebh abort {service}")
        return INTERRUPTED
    status = report_on(out, followed, service, failure_of(followed, what=what))
    if not out.json_wanted:
        out.say(f"take it back with: nebh volume undo {service}")
    return status


def _ask(
    session: Session, options: argparse.Namespace, out: Output, *, action: Action, wish: BackupWish | None, what: str
) -> int:
    try:
        followed = _send(session, options, action=action, wish=wish)
    except KeyboardInterrupt:
        return interrupted(options.service, what)
    return report_on(out, followed, options.service, failure_of(followed, what=what))


def _send(
    session: Session,
    options: argparse.Namespace,
    *,
    action: Action,
    wish: BackupWish | None,
    counter: int = 0,
    nodes: tuple[NodeRecord, ...] = (),
) -> Followed:
    """Sign an order, hand it in, follow it to its end."""
    nodes = nodes or _nodes(session, options)

    def send() -> str:
        return send_order(
            session,
            session.state(),
            action=action,
            service=options.service,
            nodes=nodes,
            life=LATER,
            counter=counter,
            backup=wish,
        )

    return send_and_follow(
        session,
        send,
        service=options.service,
        nodes=nodes,
        timeout=options.timeout or PATIENCE,
        ends=ENDS if action is Action.RESTORE else _DONE,
    )


def _nodes(session: Session, options: argparse.Namespace, *, single: bool = False) -> tuple[NodeRecord, ...]:
    """Return the nodes that hold data of the service. Raises NotFound, BadInput."""
    holding = {
        node.name
        for node in session.client.nodes()
        for one in (node.report.volumes if node.report is not None else ())
        if one.service == options.service and options.node in ("", node.name)
    }
    found = tuple(one for one in session.state().trusted.nodes.nodes if one.name in holding)
    if not found:
        where = options.node or "no node"
        said = f"{where} reports a volume of it" if not options.node else f"{where} reports no volume of it"
        raise NotFound(
            f"cannot do anything about backups of {options.service}: {said}",
            hint="deploy it first; `nebh volume list` shows what there is",
        )
    if single and len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise BadInput(f"cannot tell on which node to restore {options.service}: {names}", hint="say it with --node")
    return found


def _rows(session: Session, service: str) -> list[tuple[str, BackupRow]]:
    return [
        (node.name, one)
        for node in session.client.nodes()
        for one in (node.report.backups if node.report is not None else ())
        if service in ("", one.service)
    ]
