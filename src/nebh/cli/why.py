"""Explaining: why a release was refused, went back or is restarted; and everything known of a service."""

from __future__ import annotations

import argparse
import base64
from dataclasses import dataclass
from typing import Any

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.cli.show import clock, under_way
from nebh.model import api
from nebh.model.errors import BadInput, NebhError, Refused
from nebh.model.event import Event, Severity
from nebh.model.statement import Outcome, Receipt
from nebh.wire import codec

_BAD = frozenset({Outcome.REFUSED, Outcome.ROLLED_BACK, Outcome.FAILED})
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A receipt of a node of the signed list, verified."""

    node: str
    receipt: Receipt


def read_receipts(session: Session, nonce: str) -> tuple[Signed, ...]:
    """Return the verified receipts of a command; what no node of the signed list signed is left out."""
    from nebh.signing.statements import verify_statement

    nodes = {one.node_id: one for one in session.state().trusted.nodes.nodes}
    found = []
    for one in session.client.receipts(nonce=nonce).receipts if nonce else ():
        node = nodes.get(one.node_id)
        if node is None:
            continue
        try:
            data = base64.b64decode(one.envelope)
            receipt = verify_statement(data, "receipt", Receipt, keys=(node.sign_pk,))
        except (Refused, BadInput, ValueError):
            continue
        if receipt.nonce == nonce and receipt.node_id == node.node_id:
            found.append(Signed(node=node.name, receipt=receipt))
    return tuple(found)


def why(options: argparse.Namespace, out: Output) -> int:
    """Explain a service's newest refusal, roll-back or restarts."""
    session = Session(options, out)
    service = options.service
    view = session.client.service(service)
    bad = [one for one in session.client.events(service=service).events if one.severity is not Severity.INFO]
    exits = _exits(session, service)
    receipts = _bad_receipts(session, view)
    if out.json_wanted:
        out.document(
            {
                "service": service,
                "receipts": [{"node": one.node, **codec.to_plain(one.receipt)} for one in receipts],
                "events": [codec.to_plain(one) for one in bad[-_SHOWN:]],
                "exits": exits,
                "under_way": under_way(view),
            }
        )
        return 0
    _explain_receipts(out, receipts)
    _explain_exits(out, exits)
    _explain_events(out, bad[-_SHOWN:])
    if opened := under_way(view):
        out.say(f"under way: {harmless(opened)}")
    if not (receipts or bad or exits):
        out.say(f"nothing is wrong with {service} that anybody reported")
        if view.state == "stopped":
            out.say(f"  its policy says stopped: `nebh start {service}`")
    return 0


def _bad_receipts(session: Session, view: api.ServiceView) -> tuple[Signed, ...]:
    last = view.deployment
    if last is None:
        return ()
    try:
        return tuple(one for one in read_receipts(session, last.nonce) if one.receipt.outcome in _BAD)
    except NebhError as error:
        session.out.note(f"  receipts could not be verified: {error.message}")
        return ()


def _exits(session: Session, service: str) -> list[dict[str, Any]]:
    """Return the instances that were restarted or have ended, newest first."""
    rows = [
        {"node": node.name, "instance": one.id, "restarts": one.restarts, "last_exit": one.last_exit, "role": one.role}
        for node in session.client.nodes()
        for one in (node.report.instances if node.report else ())
        if one.service == service and (one.restarts or one.last_exit)
    ]
    return sorted(rows, key=lambda row: str(row["instance"]), reverse=True)


def _explain_receipts(out: Output, receipts: tuple[Signed, ...]) -> None:
    for one in receipts:
        receipt = one.receipt
        rule = f" by rule {harmless(receipt.rule)}" if receipt.rule else ""
        said = f"release {receipt.counter}: {receipt.outcome.value} on {one.node}{rule}, {clock(receipt.at)}"
        out.say(out.paint(said, "red"))
        out.say(f"  {harmless(receipt.detail) or 'no reason given'}")
        if receipt.hint:
            out.say(f"  hint: {harmless(receipt.hint)}")


def _explain_exits(out: Output, exits: list[dict[str, Any]]) -> None:
    for row in exits:
        times = f"restarted {row['restarts']} times" if row["restarts"] else "ended"
        last = f", last: {harmless(str(row['last_exit']))}" if row["last_exit"] else ""
        out.say(out.paint(f"{harmless(row['instance'])} on {harmless(row['node'])}: {times}{last}", "yellow"))
        out.say(f"  its last words: nebh logs {harmless(row['instance'].split('-')[0])} --instance {row['instance']}")


def _explain_events(out: Output, events: list[Event]) -> None:
    for event in events:
        colour = "red" if event.severity is Severity.ALARM else "yellow"
        out.say(out.paint(f"{clock(event.at)} {harmless(event.source)}: {harmless(event.message)}", colour))
        if event.hint:
            out.say(f"  hint: {harmless(event.hint)}")


def inspect(options: argparse.Namespace, out: Output) -> int:
    """Show everything that is known of a service: what is signed, what nodes say, receipts, events."""
    session = Session(options, out)
    service = options.service
    view = session.client.service(service)
    state = session.state(wanted=None)
    policy = state.trusted.policies.get(service)
    signed = sorted(
        (one for one in state.trusted.releases.values() if one.service == service), key=lambda one: -one.counter
    )
    instances = [
        {"node": node.name, **codec.to_plain(one)}
        for node in session.client.nodes()
        for one in (node.report.instances if node.report else ())
        if one.service == service
    ]
    receipts = read_receipts(session, view.deployment.nonce) if view.deployment else ()
    document = {
        "service": service,
        "policy": codec.to_plain(policy) if policy else None,
        "releases": [codec.to_plain(one) for one in signed],
        "allocations": [codec.to_plain(one) for one in view.allocations],
        "instances": instances,
        "deployment": codec.to_plain(view.deployment) if view.deployment else None,
        "receipts": [{"node": one.node, **codec.to_plain(one.receipt)} for one in receipts],
        "events": [codec.to_plain(one) for one in session.client.events(service=service).events[-20:]],
    }
    if out.json_wanted:
        out.document(document)
    else:
        _write_plain(out, document, indent=0)
    return 0


def _write_plain(out: Output, value: Any, *, indent: int) -> None:
    """Write nested plain data as indented lines; empty values are left out."""
    pad = "  " * indent
    for name, held in value.items():
        if held in (None, "", [], {}, ()):
            continue
        if isinstance(held, dict):
            out.say(f"{pad}{harmless(name)}:")
            _write_plain(out, held, indent=indent + 1)
        elif isinstance(held, list) and any(isinstance(one, dict) for one in held):
            for number, one in enumerate(held, start=1):
                out.say(f"{pad}{harmless(name)} {number}:")
                _write_plain(out, one, indent=indent + 1)
        else:
            text = ", ".join(map(str, held)) if isinstance(held, list) else str(held)
            out.say(f"{pad}{harmless(name)}: {harmless(text)}")
