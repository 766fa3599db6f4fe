"""Rehearsals: order one, follow it, show what each node tried and how long it took."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nebh.cli.orders import SOON, send_order
from nebh.cli.output import Output, harmless
from nebh.cli.rollout import INTERRUPTED, patience_for
from nebh.cli.services import earlier_release, release_of, standing_of, wanted_path
from nebh.cli.session import Session
from nebh.cli.watch import Followed, follow
from nebh.model.errors import Failed, NebhError, NotFound, Refused
from nebh.model.node import NodeRecord
from nebh.model.quantities import render_duration
from nebh.model.statement import Action, Outcome, Receipt

if TYPE_CHECKING:
    from nebh.signing.repository import State

ENDS = frozenset({Outcome.REHEARSED, Outcome.REFUSED, Outcome.FAILED})
COPYING = 1800.0
"""Seconds that the copy of large data may take on storage that cannot share blocks."""


def rehearse(options: argparse.Namespace, out: Output) -> int:
    """Order the nodes of a service to try a release on a copy of its data; follow them."""
    service = options.service
    session = Session(options, out)
    standing = standing_of(session, service)
    counter = options.to or earlier_release(session, standing)
    state = session.state(wanted=wanted_path(service, counter))
    names = {one.node for one in standing.view.allocations if one.running.counter}
    nodes = tuple(one for one in state.trusted.nodes.nodes if one.name in names)
    if not nodes:
        raise NotFound(f"cannot rehearse {service}: it runs nowhere", hint=f"`nebh status {service}` shows how it is")
    out.note(f"{service}: trying release {counter} on a copy of its data")
    release = release_of(state, service, counter)
    hooks = sum(one.timeout for one in release.hooks) / 1000 if release is not None else 0.0
    seen = session.client.events(wait=0).cursor
    nonce = send_order(session, state, action=Action.REHEARSE, service=service, nodes=nodes, life=SOON, counter=counter)
    try:
        followed = follow(
            session,
            nonce=nonce,
            service=service,
            nodes=nodes,
            timeout=options.timeout or patience_for(release) + hooks + COPYING,
            ends=ENDS,
            events_after=seen,
        )
    except KeyboardInterrupt:
        return _end(session, state, service, nodes, nonce)
    return _report(session, followed, service, counter, seen=seen)


def _end(session: Session, state: State, service: str, nodes: tuple[NodeRecord, ...], nonce: str) -> int:
    """After Ctrl-C: have the nodes end it and take it away, and wait until they say so."""
    sys.stderr.write("\nending the rehearsal on the nodes ...\n")
    try:
        send_order(session, state, action=Action.END_REHEARSAL, service=service, nodes=nodes, life=SOON)
        follow(session, nonce=nonce, service=service, nodes=nodes, timeout=60.0, ends=ENDS)
    except (NebhError, KeyboardInterrupt) as error:
        why = f": {error}" if isinstance(error, NebhError) else ""
        sys.stderr.write(
            f"interrupted; the rehearsal goes on without this command{why}\n"
            f"  hint: it ends by itself and leaves nothing; `nebh events --service {service}` shows it\n"
        )
    return INTERRUPTED


def _report(session: Session, followed: Followed, service: str, counter: int, *, seen: int) -> int:
    """Print what the nodes say; return the exit status. Raises what failed where no JSON is wanted."""
    out, error = session.out, _failure(followed, service, counter)
    said = _outputs(session, followed, service, seen=seen) if error is not None else {}
    if out.json_wanted:
        nodes = [{**_plain(name, one), "output": said.get(name, "")} for name, one in followed.receipts.items()]
        out.document(
            {
                "service": service,
                "release": counter,
                "nonce": followed.nonce,
                "ok": error is None,
                "nodes": nodes,
                "error": error.message if error else "",
                "hint": error.hint if error else "",
            }
        )
        return error.exit_status if error else 0
    for name, one in followed.receipts.items():
        good = one.outcome is Outcome.REHEARSED
        word = out.paint("passed" if good else "failed", "green" if good else "red")
        out.say(f"{word} on {name} (receipt {one.number}, signed by the node): {harmless(one.detail)}")
        steps = _steps(one)
        last = "" if good else next(reversed(steps), "")
        rows = [
            (harmless(step), "failed" if step == last else "ok", render_duration(took)) for step, took in steps.items()
        ]
        if rows:
            out.table(("STEP", "RESULT", "TOOK"), rows)
        for line in said.get(name, "").splitlines():
            out.say(f"  | {harmless(line)}")
    if error is not None:
        raise error
    return 0


def _plain(name: str, one: Receipt) -> dict[str, object]:
    return {
        "node": name,
        "outcome": one.outcome.value,
        "receipt": one.number,
        "detail": one.detail,
        "hint": one.hint,
        "steps": _steps(one),
    }


def _steps(receipt: Receipt) -> dict[str, int]:
    """Return the ms that each step took, in their order, which the names in a receipt begin with."""
    return {name.partition(" ")[2] or name: took for name, took in sorted((receipt.phases or {}).items())}


def _outputs(session: Session, followed: Followed, service: str, *, seen: int) -> dict[str, str]:
    """Return what the instances that failed printed last, by node."""
    found: dict[str, str] = {}
    cursor = seen
    while True:
        page = session.client.events(after=cursor, service=service, wait=0)
        for one in page.events:
            if one.kind == "rehearsal.failed" and one.facts.get("nonce") == followed.nonce:
                found[one.source] = one.facts.get("output", "")
        if page.cursor == cursor or not page.events:
            return found
        cursor = page.cursor


def _failure(followed: Followed, service: str, counter: int) -> NebhError | None:
    what = f"the rehearsal of release {counter} of {service}"
    for name, one in followed.receipts.items():
        if one.outcome is Outcome.REFUSED:
            return Refused(f"{name} refused {what}: {harmless(one.detail)}", rule=one.rule, hint=harmless(one.hint))
        if one.outcome is Outcome.FAILED:
            hint = harmless(one.hint) or "what serves was not touched"
            return Failed(f"{what} failed on {name}: {harmless(one.detail)}", hint=hint)
    return None
