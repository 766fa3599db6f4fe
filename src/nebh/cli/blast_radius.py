"""`nebh trust blast-radius`: what each stolen key and place gives, for this cloud as it stands."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.model.errors import NebhError
from nebh.model.node import NodeStatus
from nebh.planning.blast_radius import Facts, HeldKey, Loss, Place, blast_radius, find_losses

if TYPE_CHECKING:
    from nebh.signing.repository import State

_AGENT = "ssh-agent:"
_LISTS = (
    ("code of theirs on", "code_on"),
    ("policies they change", "policies"),
    ("secrets of", "secrets"),
    ("machines they have", "runs_on"),
)


def show(options: argparse.Namespace, out: Output) -> int:
    """Show what a thief of each thing could do."""
    session = Session(options, out)
    facts = gather(session)
    losses = find_losses(facts, options.what) if options.what else blast_radius(facts)
    if out.json_wanted:
        out.document({"cluster_id": facts.trusted.settings.cluster_id, "losses": [asdict(loss) for loss in losses]})
        return 0
    for number, loss in enumerate(losses):
        if number:
            out.say()
        _tell(loss, out)
    return 0


def _tell(loss: Loss, out: Output) -> None:
    key = f" (key {loss.key[:16]})" if loss.key else ""
    out.say(out.paint(f"{harmless(loss.what)}{key}", "bold"))
    for head, name in _LISTS:
        values = getattr(loss, name)
        out.say(f"  {head}: {harmless(', '.join(values)) or 'none'}")
    for head, lines in (("can", loss.can), ("cannot", loss.cannot), ("stays safe", loss.safe), ("then", loss.recover)):
        for line in lines:
            out.say(f"  {head}: {harmless(line)}")


def gather(session: Session) -> Facts:
    """Return what the losses are computed from: the verified state, expired or not, and where this computer's key is."""
    from nebh.signing import key_life

    state = session.state(accept_expired=True)
    controller = session.folder.cluster.controller
    return Facts(
        trusted=state.trusted,
        keys=tuple(
            HeldKey(public=one.public, name=one.name, kind=one.kind, roles=one.roles)
            for one in key_life.list_keys(state)
        ),
        thresholds={one.role: one.threshold for one in key_life.show_trust(state)},
        places=(_laptop(session, state),),
        address=controller if controller.startswith(("ssh://", "https://")) else "ssh://root@HOST",
    )


def _laptop(session: Session, state: State) -> Place:
    """Return this computer: its key, how that is locked, and whether it is the controller's machine and a node too."""
    where = session.folder.key
    here = not session.folder.cluster.controller.startswith(("ssh://", "https://"))
    nodes = [one.name for one in state.trusted.nodes.nodes if one.status is NodeStatus.ACTIVE]
    keys: tuple[str, ...]
    try:
        keys = (session.key.public,)
    except NebhError:
        keys = ()
    return Place(
        name="laptop",
        keys=keys,
        lock="ssh-agent" if where.startswith(_AGENT) else _lock_of(Path(where)),
        controller=here,
        node=nodes[0] if here and len(nodes) == 1 else "",
    )


def _lock_of(path: Path) -> str:
    try:
        return "passphrase" if b"ENCRYPTED" in path.read_bytes()[:80] else ""
    except OSError:
        return ""
