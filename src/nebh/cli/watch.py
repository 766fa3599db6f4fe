"""Following a command until the nodes' own receipts confirm it (O5): progress per phase, then the proof."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.model.errors import BadInput, Failed, NebhError, Refused, Unconfirmed
from nebh.model.event import Event, Severity
from nebh.model.node import NodeRecord
from nebh.model.quantities import render_duration
from nebh.model.statement import Outcome, Receipt

ENDS = frozenset(
    {Outcome.COMMITTED, Outcome.ROLLED_BACK, Outcome.REFUSED, Outcome.FAILED, Outcome.STOPPED, Outcome.REMOVED}
)
_GOOD = (Outcome.COMMITTED, Outcome.STOPPED, Outcome.REMOVED, Outcome.ROTATED, Outcome.DONE)
PHASES = ("preparing", "prepared", "starting", "cutting_over", "checking", "healthy", "rolling_back")
_COLOURS = {Severity.INFO: "dim", Severity.WARNING: "yellow", Severity.ALARM: "red"}


@dataclass(kw_only=True)
class Followed:
    """What became of a command. receipts: the newest of each node by name; everyone: all in order; seen: cursor of
    the events that were shown; ignored: why the newest receipt that did not count did not."""

    nonce: str
    receipts: dict[str, Receipt] = field(default_factory=dict)
    everyone: list[tuple[str, Receipt]] = field(default_factory=list)
    seen: int = 0
    ignored: str = ""

    def ended(self, nodes: tuple[str, ...], ends: frozenset[Outcome]) -> bool:
        """Tell whether every node has said its last word."""
        return all(name in self.receipts and self.receipts[name].outcome in ends for name in nodes)


def follow(
    session: Session,
    *,
    nonce: str,
    service: str,
    nodes: tuple[NodeRecord, ...],
    timeout: float,
    ends: frozenset[Outcome] = ENDS,
    events_after: int | None = None,
) -> Followed:
    """Show events of `service` and collect verified receipts of `nonce` until every node ended, or time is out.

    Of receipts only those count that the rules O5 let pass. Raises Unconfirmed.
    """
    client = session.client
    followed = Followed(nonce=nonce)
    cursor = 0
    seen = events_after if events_after is not None else client.events(wait=0).cursor
    deadline = time.monotonic() + timeout
    names = tuple(node.name for node in nodes)
    while not followed.ended(names, ends):
        left = deadline - time.monotonic()
        if left <= 0:
            silent = [name for name in names if name not in followed.receipts]
            who = ", ".join(silent or names)
            raise Unconfirmed(
                f"unconfirmed: {who} did not confirm within {render_duration(timeout * 1000)}"
                + (f"; a receipt was ignored: {followed.ignored}" if followed.ignored else ""),
                hint=f"it may still happen: `nebh status`, `nebh events --service {service}`",
            )
        answer = client.receipts(nonce=nonce, after=cursor, wait=min(left, 1.0))
        cursor = answer.cursor
        for one in answer.receipts:
            _take(session, followed, one.envelope, nodes)
        events = client.events(after=seen, service=service, wait=0)
        seen = followed.seen = events.cursor
        for event in events.events:
            show_event(session.out, event)
    return followed


def _take(session: Session, followed: Followed, envelope: str, nodes: tuple[NodeRecord, ...]) -> None:
    from nebh.planning.operate import ReceiptFacts, counts
    from nebh.signing.statements import verify_statement

    reason = "no known node signed it"
    for node in nodes:
        try:
            receipt = verify_statement(base64.b64decode(envelope), "receipt", Receipt, keys=(node.sign_pk,))
        except (Refused, BadInput, ValueError):  # ValueError: it is no base64
            continue
        facts = ReceiptFacts(
            receipt=receipt,
            signer=node.sign_pk,
            node=node,
            cluster_id=session.folder.cluster.cluster_id,
            nonce=followed.nonce,
            published=session.snapshot,
        )
        verdict = counts(facts)
        if verdict.ok:
            followed.receipts[node.name] = receipt
            followed.everyone.append((node.name, receipt))
            return
        reason = verdict.reason
        break
    followed.ignored = harmless(reason)
    session.out.note(session.out.paint(f"  a receipt was ignored: {followed.ignored}", "yellow"))


def show_event(out: Output, event: Event) -> None:
    """Write one event as a line of progress."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.at / 1000))
    text = f"{clock} {harmless(event.source)}: {harmless(event.message)}"
    out.note(out.paint(text, _COLOURS[event.severity]))
    if event.hint and event.severity is not Severity.INFO:
        out.note(f"         {harmless(event.hint)}")


def phases_of(receipt: Receipt) -> dict[str, int]:
    """Return the ms that each phase took, in order."""
    known = receipt.phases or {}
    return {name: known[name] for name in PHASES if name in known}


def render_phases(receipt: Receipt) -> str:
    """Return the phases for people: `preparing 85 ms, starting 210 ms, checking 10.0 s`."""
    return ", ".join(f"{name.replace('_', ' ')} {render_duration(ms)}" for name, ms in phases_of(receipt).items())


def to_document(followed: Followed) -> list[dict[str, object]]:
    """Return the receipts as plain data."""
    return [
        {
            "node": name,
            "outcome": one.outcome.value,
            "receipt": one.number,
            "counter": one.counter,
            "detail": one.detail,
            "rule": one.rule,
            "hint": one.hint,
            "phases": phases_of(one),
            "snapshot": one.snapshot,
        }
        for name, one in followed.receipts.items()
    ]


def show_receipts(out: Output, followed: Followed) -> None:
    """Write what each node confirmed."""
    for name, one in followed.receipts.items():
        good = one.outcome in _GOOD
        colour = "green" if good else "red"
        out.say(f"{out.paint(one.outcome.value, colour)} on {name} (receipt {one.number}, signed by the node)")
        if one.phases:
            out.say(f"  {render_phases(one)}")
        if one.detail:
            out.say(f"  {harmless(one.detail)}")


def failure_of(followed: Followed, *, what: str) -> NebhError | None:
    """Return the error that the receipts amount to, None when all went well."""
    for name, one in followed.receipts.items():
        detail = harmless(one.detail)
        if one.outcome is Outcome.REFUSED:
            return Refused(f"{name} refused {what} ({one.rule}): {detail}", rule=one.rule, hint=harmless(one.hint))
        if one.outcome is Outcome.ROLLED_BACK:
            return Failed(f"{what} was rolled back on {name}: {detail}", hint="the release that ran before runs on")
        if one.outcome is Outcome.FAILED:
            return Failed(f"{what} failed on {name}: {detail}", hint="nothing visible has changed")
    return None
