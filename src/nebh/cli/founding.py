"""Founding a cloud: keys, words, first metadata, the first node."""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import sys
from pathlib import Path

from nebh.cli.output import Output
from nebh.cli.session import config_base, now_seconds
from nebh.client.api_client import Client, Login
from nebh.client.frame_channel import connect_frames
from nebh.client.transport import UnixTransport
from nebh.host.files import write_atomic
from nebh.host.layout import Layout
from nebh.host.run import Command, run
from nebh.model import api
from nebh.model.errors import BadInput, Failed
from nebh.model.local import LocalConfig
from nebh.model.node import Baseline, NodeRecord
from nebh.wire import codec


def is_founded(layout: Layout) -> bool:
    """Tell whether this machine's executor belongs to a cloud."""
    with connect_frames(layout.executor_socket) as channel:
        answer, _ = channel.request({"op": "identity"})
    return bool(answer["cluster_id"])


def controller_key(layout: Layout) -> str:
    """Return the hex key of this machine's controller."""
    path = os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), *filter(None, sys.path)]))
    done = run(
        Command(
            argv=(sys.executable, "-P", "-m", "nebh.programs.controller", "init", "--state", str(layout.controller)),
            env={"PYTHONPATH": path},
        )
    )
    answer = codec.decode_loose(done.stdout.strip(), dict, what="the controller's answer")
    return str(answer["controller_key"])


def choose_subnets(wish: str, cluster_id: str) -> tuple[str, str]:
    """Return this node's subnets: 10.x.y.0/20 chosen by the cloud's id, and a /64 of a ULA prefix of its own."""
    number = int(hashlib.sha256(cluster_id.encode()).hexdigest()[:8], 16)
    four = wish or f"10.{64 + number % 128}.{(number >> 8) % 16 * 16}.0/20"
    digits = hashlib.sha256(f"ula/{cluster_id}".encode()).hexdigest()
    six = f"fd{digits[:2]}:{digits[2:6]}:{digits[6:10]}:1::/64"
    return four, six


def found_cloud(layout: Layout, config: LocalConfig, options: argparse.Namespace, out: Output) -> None:
    """Make keys and first metadata, publish them, enrol this node; shows the recovery words once."""
    from nebh.signing.genesis import init_cluster
    from nebh.signing.keys import generate_key, save_key
    from nebh.signing.operator import Cluster, create_folder

    with connect_frames(layout.executor_socket) as channel:
        identity, _ = channel.request({"op": "identity"})
    cluster_id = secrets.token_hex(16)
    node_id = hashlib.sha256(bytes.fromhex(identity["sign_pk"])).hexdigest()
    now = now_seconds()
    record = NodeRecord(
        node_id=node_id,
        name=config.name,
        groups=(),
        sign_pk=identity["sign_pk"],
        seal_pk=identity["seal_pk"],
        wg_pk="",
        subnets=choose_subnets(options.subnet4, cluster_id),
        enrolled_at=now,
        baseline=Baseline(snapshot=1, roles={"root": 1, "targets": 1}),
    )
    operator = generate_key()
    name = options.name or config.name
    genesis = init_cluster(
        name=name,
        operator=operator,
        controller=controller_key(layout),
        entropy=os.urandom(16),
        cluster_id=cluster_id,
        now=now,
        nodes=(record,),
    )
    show_words(genesis.words, options, out)
    cluster = Cluster(
        cluster_id=cluster_id,
        name=name,
        controller=f"unix:{layout.controller_socket}",
        options={"run": str(layout.controller_socket.parent)},
    )
    folder = create_folder(config_base(), cluster=cluster, root=genesis.root)
    save_key(Path(folder.key), operator)
    client = Client(
        UnixTransport(path=layout.controller_socket),
        login=Login(kind=api.Who.OPERATOR, sign=lambda data: (operator.public, operator.sign_bytes(data))),
    )
    publication = genesis.publication
    client.publish(base=publication.base, metadata=publication.metadata, targets=publication.targets)
    folder.published(publication)
    with connect_frames(layout.executor_socket) as channel:
        channel.request(
            {"op": "enrol", "cluster_id": cluster_id, "node_id": node_id, "name": config.name}, genesis.root
        )
    out.note(f"founded the cloud {name}; your key is {folder.key}")


def show_words(words: str, options: argparse.Namespace, out: Output) -> None:
    """Show the recovery words once and have one typed back, or write them to a file where nobody can be asked."""
    if options.words_file:
        write_atomic(Path(options.words_file), f"{words}\n".encode(), mode=0o600)
        out.note(f"recovery words written to {options.words_file}: move them off this machine")
        return
    if not sys.stdin.isatty():
        raise BadInput(
            "cannot found a cloud: nobody is here to write the recovery words down",
            hint="run `nebh up` on a terminal, or give --words-file FILE",
        )
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
