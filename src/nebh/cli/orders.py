"""Operators' signed orders: remove a service, end or go on with an open transaction."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from nebh.cli.output import Output, confirm, harmless
from nebh.cli.rollout import INTERRUPTED, SLACK, interrupted
from nebh.cli.services import policy_of
from nebh.cli.session import Session, new_nonce, now_seconds
from nebh.cli.watch import ENDS, Followed, failure_of, follow, show_receipts, to_document
from nebh.model import api
from nebh.model.backup import BackupWish
from nebh.model.errors import BadInput, Failed, NebhError, NotFound
from nebh.model.node import NodeRecord, NodeStatus
from nebh.model.statement import Action, Order, Outcome

if TYPE_CHECKING:
    from nebh.signing.repository import State

SOON, LATER = 600, 86_400
_TAKEN = frozenset({Outcome.ACCEPTED, Outcome.REFUSED, Outcome.FAILED})
_GONE = frozenset({Outcome.REMOVED, Outcome.REFUSED, Outcome.FAILED})


def send_order(
    session: Session,
    state: State,
    *,
    action: Action,
    service: str,
    nodes: tuple[NodeRecord, ...],
    life: int,
    counter: int = 0,
    volume: str = "",
    snapshot: str = "",
    backup: BackupWish | None = None,
    target: str = "",
    force: bool = False,
) -> str:
    """Sign an order for these nodes, good for `life` seconds, and hand it in; return its nonce. The rest: as in
    Order."""
    from nebh.signing.statements import sign_statement

    now = now_seconds()
    order = Order(
        cluster_id=state.cluster_id,
        nodes=tuple(node.node_id for node in nodes),
        service=service,
        action=action,
        nonce=new_nonce(),
        signed_at=now,
        not_after=now + life,
        counter=counter,
        volume=volume,
        snapshot=snapshot,
        backup=backup,
        target=target,
        force=force,
    )
    session.client.order(sign_statement("order", order, session.key))
    return order.nonce


def send_and_follow(
    session: Session,
    send: Callable[[], str],
    *,
    service: str,
    nodes: tuple[NodeRecord, ...],
    timeout: float,
    ends: frozenset[Outcome] = ENDS,
) -> Followed:
    """Have `send` hand an order in and follow it, with every event since. timeout: seconds. Raises KeyboardInterrupt."""
    seen = session.client.events(wait=0).cursor
    return follow(session, nonce=send(), service=service, nodes=nodes, timeout=timeout, ends=ends, events_after=seen)


def rm(options: argparse.Namespace, out: Output) -> int:
    """Take a service off its nodes, and, once they confirm, its policy and releases out of what is signed."""
    from nebh.signing.wish import Wish

    service = options.service
    session = Session(options, out)
    state = session.state()
    policy_of(state, service)
    if not confirm(f"Remove {service} from every node? Its data stays.", yes=options.yes):
        raise BadInput("nothing was removed: nobody agreed", hint="--yes agrees in scripts")
    nodes, silent = _nodes_to_clear(session, state, service)
    every = (*nodes, *silent)
    for node in silent:
        out.note(f"  {node.name} was not heard of lately; it takes the order if it comes back within a day")
    try:
        followed = send_and_follow(
            session,
            lambda: send_order(session, state, action=Action.REMOVE, service=service, nodes=every, life=LATER),
            service=service,
            nodes=nodes,
            timeout=options.timeout or SLACK,
            ends=_GONE,
        )
    except KeyboardInterrupt:
        interrupted(service, f"removing {service}", undo="nebh deploy SPEC.yaml")
        return INTERRUPTED
    error = failure_of(followed, what=f"removing {service}")
    if error is not None:
        return report_on(out, followed, service, error)
    session.publish(lambda _: Wish(remove=(service,)))
    report_on(out, followed, service, None)
    if not out.json_wanted:
        out.say(f"{service} is gone: no policy and no release of it is signed any more; its data stays")
        out.say("bring it back with: nebh deploy SPEC.yaml")
    return 0


def _nodes_to_clear(
    session: Session, state: State, service: str
) -> tuple[tuple[NodeRecord, ...], tuple[NodeRecord, ...]]:
    """Return (nodes that must confirm, nodes that nobody heard of and that are not known to run it)."""
    views = {one.node_id: one for one in session.client.nodes()}
    active = [one for one in state.trusted.nodes.nodes if one.status is NodeStatus.ACTIVE]

    def expected(node: NodeRecord) -> bool:
        view = views.get(node.node_id)
        runs = bool(view and view.report and any(one.service == service for one in view.report.running))
        return runs or bool(view and view.connected)

    return tuple(filter(expected, active)), tuple(one for one in active if not expected(one))


def report_on(
    out: Output,
    followed: Followed,
    service: str,
    error: NebhError | None,
    *,
    more: dict[str, object] | None = None,
) -> int:
    """Print the receipts; return the exit status. Raises `error` where no JSON is wanted. more: further fields of the
    JSON document."""
    if out.json_wanted:
        out.document(
            {
                "service": service,
                "nonce": followed.nonce,
                "ok": error is None,
                "receipts": to_document(followed),
                "error": error.message if error else "",
                "hint": error.hint if error else "",
                **(more or {}),
            }
        )
        return error.exit_status if error else 0
    show_receipts(out, followed)
    if error is not None:
        raise error
    return 0


def abort(options: argparse.Namespace, out: Output) -> int:
    """End the open transaction of a service: what ran before runs on."""
    return _steer(options, out, Action.ABORT)


def resume(options: argparse.Namespace, out: Output) -> int:
    """Let a prepared release run, or keep one that is held although its checks failed."""
    return _steer(options, out, Action.RESUME)


def _steer(options: argparse.Namespace, out: Output, action: Action) -> int:
    service = options.service
    session = Session(options, out)
    view = session.client.service(service)
    nodes = _busy_nodes(view)
    state = session.state()
    records = tuple(one for one in state.trusted.nodes.nodes if one.name in nodes)
    if not records:
        raise NotFound(
            f"cannot {action.value} anything of {service}: no transaction of it is under way",
            hint=f"`nebh status {service}` shows how it is; `nebh rollback {service}` goes back",
        )
    seen = session.client.events(wait=0).cursor
    nonce = send_order(session, state, action=action, service=service, nodes=records, life=SOON)
    try:
        taken = follow(
            session, nonce=nonce, service=service, nodes=records, timeout=60.0, ends=_TAKEN, events_after=seen
        )
        error = failure_of(taken, what=f"the {action.value} of {service}")
        if error is not None or view.deployment is None or options.detach:
            return report_on(out, taken, service, error)
        ended = follow(
            session,
            nonce=view.deployment.nonce,
            service=service,
            nodes=records,
            timeout=options.timeout or SLACK,
            ends=ENDS,
            events_after=taken.seen,
        )
    except KeyboardInterrupt:
        return interrupted(service, f"the {action.value} of {service}")
    return report_on(out, ended, service, _judge(ended, action, service, view.deployment))


def _busy_nodes(view: api.ServiceView) -> frozenset[str]:
    """Return the names of nodes that have a transaction open, as they report it or have not ended their command."""
    reported = {one.node for one in view.allocations if one.running.transaction}
    last = view.deployment
    if last is not None and last.state is api.DeploymentState.OPEN:
        ends = {one.value for one in ENDS}
        reported |= {harmless(name) for name, outcome in last.nodes.items() if outcome not in ends}
    return frozenset(reported)


def _judge(ended: Followed, action: Action, service: str, deployment: api.Deployment) -> NebhError | None:
    what = f"release {deployment.counter} of {service}"
    if action is Action.RESUME:
        return failure_of(ended, what=what)
    for name, one in ended.receipts.items():
        if one.outcome is Outcome.COMMITTED:
            return Failed(f"cannot abort {what}: {name} had committed it", hint=f"`nebh rollback {service}` goes back")
    return None
