"""`nebh node-end`: what `nebh up root@HOST` asks of the machine it founds a cloud on. For itself, not for people."""

from __future__ import annotations

import argparse
import sys

from nebh.cli.machine import layout_of, read_local
from nebh.cli.node_end import LocalNode
from nebh.cli.output import Output
from nebh.model.errors import BadInput
from nebh.wire import codec

_LIMIT = 1 << 20


def node_end(options: argparse.Namespace, out: Output) -> int:
    """Answer one question on standard output, as JSON."""
    layout = layout_of(options)
    config = read_local(layout)
    if config is None:
        raise BadInput(f"cannot answer for {layout.state}: there is no node", hint="`nebh up` makes one")
    node = LocalNode(layout, config)
    answer: object = {}
    if options.action == "identity":
        answer = node.identity()
    elif options.action == "controller":
        answer = node.controller()
    elif options.action == "pin-root":
        node.pin_root(sys.stdin.buffer.read(_LIMIT))
    else:
        root = sys.stdin.buffer.read(_LIMIT)
        node.enrol(cluster_id=options.cluster_id, node_id=options.node_id, name=options.name, root=root)
    out.say(codec.encode(answer).decode())
    return 0
