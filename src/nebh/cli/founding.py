"""Founding a cloud: keys, words, first metadata, the first node. A founding that was cut short is finished by the next.

The order holds that: the operator's key and the signed first publication lie on this computer (founding.json) before
anything is published, cluster.json is written before the node is enrolled, and founding.json goes last.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nebh.cli.node_end import NodeEnd
from nebh.cli.output import Output
from nebh.cli.session import config_base, now_seconds
from nebh.client.api_client import Client, Login
from nebh.client.frame_channel import connect_frames
from nebh.host import faults
from nebh.host.files import read_bounded, write_atomic
from nebh.host.layout import Layout
from nebh.model import api
from nebh.model.errors import BadInput, Conflict, Failed, NebhError, NotFound, Refused, Unreachable
from nebh.model.names import check_name
from nebh.model.node import Baseline, NodeRecord, Settings
from nebh.wire import codec

if TYPE_CHECKING:
    from nebh.signing.repository import Publication, State

PENDING = "founding.json"
_LIMIT = 8 << 20
ACCEPT_PATIENCE = 30.0


@dataclass(frozen=True, kw_only=True)
class Pending:
    """founding.json. sign_pk: of the node it is for; metadata, targets: the first publication, in base64; options: for
    cluster.json."""

    cluster_id: str
    name: str
    node_name: str
    sign_pk: str
    controller: str
    options: dict[str, str]
    root: str
    metadata: dict[str, str]
    targets: dict[str, str]


def is_founded(node: NodeEnd, name: str) -> bool:
    """Tell whether the machine belongs to a cloud and nothing of its founding is left to do here."""
    identity = node.identity()
    pending = read_pending(config_base() / name)
    return bool(identity.cluster_id) and (pending is None or pending.sign_pk != identity.sign_pk)


def check_name_is_free(layout: Layout, name: str) -> None:
    """Before anything is made: raises BadInput when this computer knows another cloud of that name."""
    check_name(name, what="cloud")
    folder = config_base() / name
    if not (folder / "cluster.json").exists() or (folder / PENDING).exists() or _is_ours(folder, layout):
        return
    raise BadInput(
        f"cannot found a cloud called {name}: {folder} holds the key of one of that name",
        hint="choose another with --name, or move that folder away",
    )


def check_words_are_read(layout: Layout, name: str, options: argparse.Namespace) -> None:
    """Before anything is made: raises BadInput where words would be shown and nobody is there to write them down."""
    if not ((config_base() / name / PENDING).exists() or layout.pinned_root.exists()):
        _demand_reader(options)


def _demand_reader(options: argparse.Namespace) -> None:
    if not (options.words_file or sys.stdin.isatty()):
        raise BadInput(
            "cannot found a cloud: nobody is here to write the recovery words down",
            hint="run `nebh up` on a terminal, or give --words-file FILE",
        )


def _is_ours(folder: Path, layout: Layout) -> bool:
    """Tell whether the cloud of that folder is the one this machine belongs to already."""
    with contextlib.suppress(OSError, NebhError):
        pinned = read_bounded(layout.pinned_root, limit=_LIMIT)
        return pinned == read_bounded(folder / "root.json", limit=_LIMIT)
    return False


def choose_subnets(wish: str, cluster_id: str) -> tuple[str, str]:
    """Return this node's subnets: 10.x.y.0/20 chosen by the cloud's id, and a /64 of a ULA prefix of its own."""
    number = int(hashlib.sha256(cluster_id.encode()).hexdigest()[:8], 16)
    four = wish or f"10.{64 + number % 128}.{(number >> 8) % 16 * 16}.0/20"
    digits = hashlib.sha256(f"ula/{cluster_id}".encode()).hexdigest()
    six = f"fd{digits[:2]}:{digits[2:6]}:{digits[6:10]}:1::/64"
    return four, six


def found_on(node: NodeEnd, options: argparse.Namespace, out: Output) -> None:
    """Make keys and first metadata, publish them, enrol the node; shows the recovery words once."""
    identity = node.identity()
    name = options.name or node.name
    folder = config_base() / check_name(name, what="cloud")
    pending = read_pending(folder)
    if pending is not None and pending.sign_pk != identity.sign_pk:
        raise BadInput(
            f"cannot found a cloud called {name}: {folder} holds the founding of another machine, cut short",
            hint=f"finish that one, or move {folder} away, or choose another --name",
        )
    if pending is None:
        if identity.cluster_id:
            raise Conflict(
                f"cannot found a cloud: this machine belongs to cluster {identity.cluster_id}",
                hint="`nebh down --purge` on it frees it",
            )
        pending = begin(node, identity.sign_pk, identity.seal_pk, name=name, folder=folder, options=options, out=out)
    else:
        out.note(f"going on with the founding of {name} that was cut short; its recovery words hold")
    finish(node, pending, folder)
    out.note(f"founded the cloud {name}; your key is {folder / 'operator.key'}")


def read_pending(folder: Path) -> Pending | None:
    """Return what was cut short there, None when nothing was."""
    try:
        return codec.decode(read_bounded(folder / PENDING, limit=_LIMIT), Pending, what=str(folder / PENDING))
    except FileNotFoundError:
        return None


def first_record(name: str, *, sign_pk: str, seal_pk: str, subnets: tuple[str, str], now: int) -> NodeRecord:
    """Return the record of a cloud's first node. now: Unix seconds."""
    return NodeRecord(
        node_id=hashlib.sha256(bytes.fromhex(sign_pk)).hexdigest(),
        name=name,
        groups=(),
        sign_pk=sign_pk,
        seal_pk=seal_pk,
        wg_pk="",
        subnets=subnets,
        enrolled_at=now,
        baseline=Baseline(snapshot=1, roles={"root": 1, "targets": 1}),
    )


def begin(
    node: NodeEnd, sign_pk: str, seal_pk: str, *, name: str, folder: Path, options: argparse.Namespace, out: Output
) -> Pending:
    """Make key, words and the signed first publication, and leave them on this computer; nobody else knows of it."""
    from nebh.signing.genesis import init_cluster
    from nebh.signing.keys import generate_key, save_key

    if (folder / "cluster.json").exists() and not (folder / PENDING).exists():
        raise BadInput(
            f"cannot found a cloud called {name}: {folder} holds the key of one", hint="choose another --name"
        )
    if folder.exists():
        out.note(f"an earlier try left {folder} before anything was signed: it is begun afresh, its words are void")
        shutil.rmtree(folder)
    cluster_id, now = secrets.token_hex(16), now_seconds()
    controller = node.controller()
    subnets = choose_subnets(options.subnet4, cluster_id)
    record = first_record(node.name, sign_pk=sign_pk, seal_pk=seal_pk, subnets=subnets, now=now)
    operator = generate_key()
    pins = (controller.tls_pin,) if node.listen else ()
    genesis = init_cluster(
        name=name,
        operator=operator,
        controller=controller.key,
        entropy=os.urandom(16),
        cluster_id=cluster_id,
        now=now,
        nodes=(record,),
        settings=Settings(
            cluster_id=cluster_id, name=name, controller_keys=(controller.key,), controller_tls_pins=pins
        ),
    )
    show_words(genesis.words, options, out)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    faults.point("founding.key.before")
    save_key(folder / "operator.key", operator)
    faults.point("founding.pending.before")
    publication = genesis.publication
    pending = Pending(
        cluster_id=cluster_id,
        name=name,
        node_name=node.name,
        sign_pk=sign_pk,
        controller=node.address,
        options={**node.options, **({"pins": controller.tls_pin} if node.listen else {})},
        root=_text(genesis.root),
        metadata={key: _text(data) for key, data in publication.metadata.items()},
        targets={key: _text(data) for key, data in publication.targets.items()},
    )
    write_atomic(folder / PENDING, codec.encode(pending), mode=0o600)
    faults.point("founding.pending.after")
    return pending


def finish(node: NodeEnd, pending: Pending, folder: Path) -> None:
    """Publish, write cluster.json, enrol. Each step may have been done before."""
    from nebh.signing.keys import load_key
    from nebh.signing.operator import CLUSTER, Cluster, create_folder, load_cluster
    from nebh.signing.repository import Publication

    operator = load_key(folder / "operator.key")
    root = base64.b64decode(pending.root)
    publication = Publication(
        cluster_id=pending.cluster_id,
        base={},
        metadata={key: base64.b64decode(data) for key, data in pending.metadata.items()},
        targets={key: base64.b64decode(data) for key, data in pending.targets.items()},
    )
    client = Client(
        node.transport(),
        login=Login(kind=api.Who.OPERATOR, sign=lambda data: (operator.public, operator.sign_bytes(data))),
    )
    try:
        publish_once(client, node, publication, root=root)
    finally:
        client.close()
    faults.point("founding.publish.after")
    cluster = Cluster(
        cluster_id=pending.cluster_id, name=pending.name, controller=pending.controller, options=pending.options
    )
    if (folder / CLUSTER).exists():
        known = load_cluster(config_base(), pending.name)
    else:
        known = create_folder(config_base(), cluster=cluster, root=root)
    known.published(publication)
    faults.point("founding.cluster.after")
    node.enrol(
        cluster_id=pending.cluster_id,
        node_id=hashlib.sha256(bytes.fromhex(pending.sign_pk)).hexdigest(),
        name=pending.node_name,
        root=root,
    )
    faults.point("founding.enrol.after")
    (folder / PENDING).unlink()


def publish_once(client: Client, node: NodeEnd, publication: Publication, *, root: bytes) -> None:
    """Publish the first set unless it stands already. Raises Conflict when the controller serves another cloud."""
    there = client.metadata("1.root.json", limit=_LIMIT)
    if there is None:
        node.pin_root(root)
        client.publish(base=publication.base, metadata=publication.metadata, targets=publication.targets)
    elif there != root:
        raise Conflict(
            "cannot found a cloud: this machine's controller serves another one already",
            hint="`nebh down --purge` on it removes that",
        )


def wait_until_accepted(layout: Layout, out: Output) -> None:
    """Wait until the executor has verified and accepted its own record, so that the first deploy does not have to. A
    node that takes longer is no error: it goes on trying."""
    until = time.monotonic() + ACCEPT_PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(Unreachable, NotFound), connect_frames(layout.executor_socket) as channel:
            answer, _ = channel.request({"op": "status"})
            if answer.get("snapshot"):
                return
        time.sleep(0.2)
    out.note("the node has not fetched the first metadata yet; `nebh doctor` says why")


def sign_pins(node: NodeEnd, options: argparse.Namespace, out: Output) -> None:
    """Have the TLS door's pin in the signed settings, where this computer holds the key of a founded cloud."""
    from nebh.cli.session import Session
    from nebh.signing.operator import save_cluster
    from nebh.signing.wish import Wish

    if not node.listen:
        return
    pin = node.controller().tls_pin
    options.cloud = options.cloud or options.name
    try:
        session = Session(options, out)
        folder = session.folder
    except (BadInput, NotFound):
        out.note("the controller listens with TLS; its pin is signed into the settings by whoever holds the key")
        return

    def make(state: State) -> Wish | None:
        settings = state.trusted.settings
        if pin in settings.controller_tls_pins:
            return None
        return Wish(settings=replace(settings, controller_tls_pins=(*settings.controller_tls_pins, pin)))

    try:
        options.yes_widen = True  # the person typed --listen, and the pin was read from this very machine
        session.publish(make)
        save_cluster(folder.path, replace(folder.cluster, options={**folder.cluster.options, "pins": pin}))
    except (NotFound, Refused) as error:
        out.note(f"the pin of the TLS door was not signed: {error.message}")
    finally:
        session.close()


def show_words(words: str, options: argparse.Namespace, out: Output) -> None:
    """Show the recovery words once and have one typed back, or write them to a file where nobody can be asked."""
    if options.words_file:
        write_atomic(Path(options.words_file), f"{words}\n".encode(), mode=0o600)
        out.note(f"recovery words written to {options.words_file}: move them off this machine")
        return
    _demand_reader(options)
    listed = words.split()
    out.note("Write these twelve words down; they are shown once and stored nowhere. They bring a lost key back.\n")
    for start in range(0, 12, 4):
        out.note("   " + "   ".join(f"{start + n + 1:2}. {listed[start + n]:<10}" for n in range(4)))
    number = secrets.randbelow(12)
    for _ in range(3):
        sys.stderr.write(f"\nWord number {number + 1}, to be sure: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() == listed[number]:
            return
    raise Failed("the word was not right three times; nothing was made", hint="run `nebh up` again")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
