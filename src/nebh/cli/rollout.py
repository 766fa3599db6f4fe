"""From a signed wish to the nodes' receipts: ask the controller, follow, print the proof and the way back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nebh.cli.session import Session, new_nonce
from nebh.cli.watch import ENDS, Followed, failure_of, follow, show_receipts, to_document
from nebh.model import api
from nebh.model.errors import Unconfirmed
from nebh.model.statement import Outcome, Phase

if TYPE_CHECKING:
    from nebh.model.release import Release
    from nebh.signing.repository import State

SLACK = 120.0
PREPARE_ENDS = frozenset({Outcome.PREPARED, Outcome.REFUSED, Outcome.FAILED})
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is wanted of the nodes. what: for people (`release 3 of web`); undo: the command that takes it back, ""
    where there is none; patience: seconds to wait for receipts."""

    service: str
    counter: int
    epoch: int
    replicas: int
    what: str
    phase: Phase = Phase.RUN
    undo: str = ""
    supersede: bool = False
    patience: float = SLACK


def patience_for(release: Release | None) -> float:
    """Return how many seconds a roll-out of a release may take before its silence is worth an error."""
    if release is None:
        return SLACK
    return SLACK + (release.update.bake + release.health.startup_timeout * 2 + release.update.drain) / 1000


def roll_out(
    session: Session,
    state: State,
    release: Release,
    *,
    replicas: int,
    phase: Phase = Phase.RUN,
    supersede: bool = False,
    events_after: int | None = None,
    undo: str = "",
) -> int:
    """Ask the controller for a release, follow it, print the receipts and the way back; return the exit status."""
    ask = Ask(
        service=release.service,
        counter=release.counter,
        epoch=release.epoch,
        replicas=replicas,
        what=f"release {release.counter} of {release.service}",
        phase=phase,
        undo=undo,
        supersede=supersede,
        patience=patience_for(release),
    )
    return carry_out(session, state, ask, events_after=events_after)


def carry_out(
    session: Session,
    state: State,
    ask: Ask,
    *,
    events_after: int | None = None,
    more: dict[str, Any] | None = None,
) -> int:
    """Ask for assignments and wait for the receipts that repeat this command's nonce (O5); return the exit status.
    more: further fields of the JSON document."""
    seen = session.client.events(wait=0).cursor if events_after is None else events_after
    nonce = new_nonce()
    deployment = session.client.deploy(
        ask.service,
        api.DeploymentRequest(
            counter=ask.counter,
            epoch=ask.epoch,
            replicas=ask.replicas,
            phase=ask.phase,
            nonce=nonce,
            supersede=ask.supersede,
        ),
    )
    if getattr(session.options, "detach", False):
        return _detached(session, ask, nonce)
    nodes = tuple(node for node in state.trusted.nodes.nodes if node.name in deployment.nodes)
    if not nodes:
        raise Unconfirmed(
            f"unconfirmed: the controller gave {ask.what} to no node of the signed list",
            hint=f"`nebh status {ask.service}`; is this the right controller?",
        )
    try:
        followed = follow(
            session,
            nonce=nonce,
            service=ask.service,
            nodes=nodes,
            timeout=getattr(session.options, "timeout", 0) or ask.patience,
            events_after=seen,
            ends=PREPARE_ENDS if ask.phase is Phase.PREPARE else ENDS,
        )
    except KeyboardInterrupt:
        return interrupted(ask.service, ask.what, undo=ask.undo)
    return conclude(session, followed, ask, more=more)


def _detached(session: Session, ask: Ask, nonce: str) -> int:
    if session.out.json_wanted:
        session.out.document({"service": ask.service, "release": ask.counter, "nonce": nonce, "undo": ask.undo})
    else:
        session.out.say(f"asked for {ask.what}; `nebh events --service {ask.service} --follow` shows how it goes")
    return 0


def interrupted(service: str, what: str, *, undo: str = "") -> int:
    """Say, after Ctrl-C, that what was sent goes on, what shows it and what takes it back; return the exit status."""
    back = f"`{undo}` goes back" if undo else f"`nebh abort {service}` ends it"
    sys.stderr.write(
        f"\ninterrupted; {what} goes on without this command\n"
        f"  hint: `nebh events --service {service} --follow` shows it, {back}\n"
    )
    return INTERRUPTED


def conclude(session: Session, followed: Followed, ask: Ask, *, more: dict[str, Any] | None = None) -> int:
    """Print receipts, times and the way back; raise what failed. more: further fields of the JSON document."""
    out = session.out
    error = failure_of(followed, what=ask.what)
    if out.json_wanted:
        out.document(
            {
                "service": ask.service,
                "release": ask.counter,
                "nonce": followed.nonce,
                "ok": error is None,
                "receipts": to_document(followed),
                "undo": ask.undo,
                "error": error.message if error else "",
                "hint": error.hint if error else "",
                **(more or {}),
            }
        )
        return error.exit_status if error else 0
    show_receipts(out, followed)
    if error is not None:
        raise error
    if ask.undo:
        out.say(f"undo with: {ask.undo}")
    return 0
