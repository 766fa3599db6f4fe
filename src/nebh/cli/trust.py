"""`nebh trust` and `nebh init`: what is signed, until when, and the first signature of a cloud."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session, config_base, now_seconds
from nebh.cli.words import ask_words
from nebh.client.api_client import Client, Login
from nebh.model import api
from nebh.model.errors import BadInput
from nebh.model.names import is_digest

if TYPE_CHECKING:
    from nebh.signing.operator import ClusterFolder
    from nebh.signing.repository import State
    from nebh.signing.statements import StatementSigner
    from nebh.signing.wish import Signed


def show(options: argparse.Namespace, out: Output) -> int:
    """Show every signed role as verified here: version, expiry, keys, digest."""
    from nebh.signing import key_life

    session = Session(options, out)
    state = session.state(accept_expired=True)
    lines = key_life.show_trust(state)
    root = hashlib.sha256(session.folder.root).hexdigest()
    if out.json_wanted:
        out.document(
            {
                "cluster_id": state.cluster_id,
                "pinned_root": root,
                "roles": {
                    one.role: {
                        "version": one.version,
                        "digest": one.digest,
                        "expires_at": one.expires_at,
                        "threshold": one.threshold,
                        "keys": one.keys,
                    }
                    for one in lines
                },
            }
        )
        return 0
    now = now_seconds()
    out.say(f"cloud {harmless(session.folder.cluster.name)}, id {state.cluster_id}, pinned root {root[:16]}")
    rows = [
        (
            one.role,
            one.version,
            _until(one.expires_at, now),
            f"{one.threshold} of {', '.join(one.keys)}",
            one.digest[:16],
        )
        for one in lines
    ]
    out.table(("ROLE", "VERSION", "GOOD UNTIL", "KEYS", "DIGEST"), rows)
    return 0


def _until(end: int, now: int) -> str:
    text = time.strftime("%Y-%m-%d", time.gmtime(end)) if end else "?"
    return text if end > now else f"EXPIRED {text}"


def renew(options: argparse.Namespace, out: Output) -> int:
    """Sign anew, unchanged, every role that this key may sign; with the words root too."""
    from nebh.signing import key_life

    session = Session(options, out)
    text = ask_words(options.words_file) if options.root or options.words_file else ""

    def sign(state: State) -> Signed:
        return key_life.renew(state, key=session.key, now=now_seconds(), recovery_words=text)

    session.publish_signed(sign, accept_expired=True)
    state = session.state()
    ends = dict(sorted(state.trusted.expires.items()))
    if out.json_wanted:
        out.document({"ok": True, "expires": ends})
        return 0
    first = min(ends, key=lambda role: (role == "timestamp", ends[role]))
    out.say(f"renewed; {first} expires next, on {time.strftime('%Y-%m-%d', time.gmtime(ends[first]))}")
    return 0


def floors(options: argparse.Namespace, out: Output) -> int:
    """Show this computer's floors, or take them from another's `nebh trust show --json`."""
    from nebh.signing.floors import floors_from

    session = Session(options, out)
    if options.source:
        made = floors_from(_read_floors(options.source), cluster_id=session.folder.cluster.cluster_id)
        session.folder.save_floors(made)
    held = session.folder.floors()
    if out.json_wanted:
        out.document(
            {
                "cluster_id": held.cluster_id,
                "roles": {role: {"version": one.version, "digest": one.digest} for role, one in held.roles.items()},
            }
        )
        return 0
    rows = [(role, one.version, one.digest[:16]) for role, one in sorted(held.roles.items())]
    out.table(("ROLE", "NOT OLDER THAN", "DIGEST"), rows)
    return 0


def _read_floors(file: str) -> dict[str, tuple[int, str]]:
    try:
        roles = json.loads(Path(file).read_text(encoding="utf-8"))["roles"]
        found = {str(role): (int(one["version"]), str(one["digest"])) for role, one in roles.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"cannot read floors from {file}: {error}", hint="it is what `nebh trust show --json` prints elsewhere"
        ) from error
    if not all(is_digest(digest) for _, digest in found.values()):
        raise BadInput(f"cannot read floors from {file}: a digest is not 64 hex digits")
    return found


def init(options: argparse.Namespace, out: Output) -> int:
    """Make the keys and the first signed metadata of a cloud whose controller was made by hand."""
    from nebh.cli.founding import show_words
    from nebh.model.node import Settings
    from nebh.signing.genesis import init_cluster
    from nebh.signing.operator import Cluster, create_folder

    if not is_digest(options.controller_key):
        raise BadInput(
            f"cannot use {options.controller_key!r} as a controller key: it is not 64 hex digits",
            hint="`nebh-controller init` prints it where the controller will run",
        )
    cluster_id = secrets.token_hex(16)
    pins = {"pins": options.pin} if options.pin else {}
    key_text, operator = _operator_key(options)
    settings = Settings(
        cluster_id=cluster_id,
        name=options.cloud_name,
        controller_keys=(options.controller_key,),
        controller_tls_pins=(options.pin,) if options.pin else (),
    )
    genesis = init_cluster(
        name=options.cloud_name,
        operator=operator,
        controller=options.controller_key,
        entropy=os.urandom(16),
        cluster_id=cluster_id,
        now=now_seconds(),
        settings=settings,
    )
    cluster = Cluster(
        cluster_id=cluster_id, name=options.cloud_name, controller=options.controller, key=key_text, options=pins
    )
    session = Session(options, out)
    client = Client(session.transport_to(cluster), login=_login(operator))
    _check_empty(client)
    show_words(genesis.words, options, out)
    folder = create_folder(config_base(), cluster=cluster, root=genesis.root)
    _save(folder, operator, options)
    publication = genesis.publication
    client.publish(base=publication.base, metadata=publication.metadata, targets=publication.targets)
    folder.published(publication)
    if out.json_wanted:
        out.document({"cloud": options.cloud_name, "cluster_id": cluster_id, "key": folder.key, "ok": True})
    else:
        out.say(f"the cloud {options.cloud_name} is founded; your key is {folder.key}")
    return 0


def _operator_key(options: argparse.Namespace) -> tuple[str, StatementSigner]:
    """Return what cluster.json says of the key, and the key."""
    from nebh.signing.keys import AGENT_PREFIX, agent_key, generate_key
    from nebh.signing.operator import KEY

    if options.ssh_agent is None:
        return KEY, generate_key()
    held = agent_key(options.ssh_agent, socket=os.environ.get("SSH_AUTH_SOCK", ""))
    return f"{AGENT_PREFIX}{held.public}", held


def _login(operator: StatementSigner) -> Login:
    return Login(kind=api.Who.OPERATOR, sign=lambda data: (operator.public, operator.sign_bytes(data)))


def _check_empty(client: Client) -> None:
    held = client.health()
    if held.snapshot:
        raise BadInput(
            f"cannot found a cloud there: that controller serves {held.cluster_id[:16]} already",
            hint="`nebh key recover --name NAME` brings its key to this computer",
        )


def _save(folder: ClusterFolder, operator: StatementSigner, options: argparse.Namespace) -> None:
    from nebh.cli.keys import new_passphrase
    from nebh.signing.keys import save_key
    from nebh.signing.statements import Seed

    if isinstance(operator, Seed):
        save_key(Path(folder.key), operator, passphrase=new_passphrase(options))
