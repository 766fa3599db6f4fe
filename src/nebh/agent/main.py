"""Entry: open the door for the executor, relay both ways until told to end."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from pathlib import Path

from nebh import __version__
from nebh.agent.delivery import Held
from nebh.agent.door import Door
from nebh.agent.relay import Down, Loop, Up
from nebh.agent.sharing import Sharing
from nebh.agent.sources import ControllerSource, Sources, parse_mirror
from nebh.agent.transport_key import TransportIdentity, sign_once
from nebh.client.frame_channel import serve_frames
from nebh.client.transport import parse_transport
from nebh.host import faults
from nebh.host.throttle import Throttle
from nebh.model.errors import NebhError
from nebh.model.quantities import parse_size

STATE, RUN = Path("/var/lib/nebh/agent"), Path("/run/nebh")


def main(argv: list[str]) -> int:
    """Run `nebh-agent`; return the exit status."""
    faults.arm(dict(os.environ))
    words = argv if argv[:1] in (["serve"], ["sign"]) else ["serve", *argv]
    if argv[:1] in (["-h"], ["--help"], ["--version"]):
        words = argv
    options = _parser().parse_args(words)
    try:
        if options.command == "sign":
            sys.stdout.write(sign_once(options.key, sys.stdin.buffer.read()) + "\n")
            return 0
        return serve(options)
    except NebhError as error:
        say(error.message + (f" ({error.hint})" if error.hint else ""))
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nebh-agent", description="The node's network half: fetches, probes, relays.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="the default: relay until SIGTERM")
    serving.add_argument("--state", type=Path, default=STATE, help="the agent's own folder")
    serving.add_argument("--run", type=Path, default=RUN, help="folder with the sockets")
    serving.add_argument("--door", type=Path, metavar="PATH", help="the agent's own socket, RUN/agent.sock by default")
    serving.add_argument("--controller", default="", metavar="URL", help="unix:PATH or https://HOST:PORT")
    serving.add_argument("--pin", action="append", default=[], metavar="SHA256", help="of the controller's certificate")
    serving.add_argument("--mirror", action="append", default=[], metavar="URL", help="a static mirror, in order")
    serving.add_argument("--neighbour", action="append", default=[], metavar="URL", help="another node's --share door")
    serving.add_argument("--store", type=Path, metavar="DIR", help="the node's objects, to patch and to share")
    serving.add_argument("--share", default="", metavar="ADDR:PORT", help="give objects to neighbours there")
    serving.add_argument("--limit-rate", default="0", metavar="RATE", help="fetch at no more than this a second")
    signing = commands.add_parser("sign", help="for its own child")
    signing.add_argument("--key", type=Path, required=True)
    return parser


def serve(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    executor = options.run / "executor.sock"
    pins = tuple(options.pin)
    transport = parse_transport(options.controller or f"unix:{options.run / 'controller.sock'}", pins=pins)
    identity = TransportIdentity(state=options.state, executor=executor)
    source = ControllerSource(transport, identity)
    sources = Sources(
        source,
        tuple(parse_mirror(url, pins=pins) for url in options.mirror),
        neighbours=tuple(parse_mirror(url, pins=pins) for url in options.neighbour),
        held=Held(options.store) if options.store else None,
        throttle=Throttle(parse_size(options.limit_rate)),
        pins=pins,
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if options.share and options.store:
        Sharing(Held(options.store), options.share)
    allowed = frozenset({0, os.geteuid()})
    door = serve_frames(
        options.door or options.run / "agent.sock",
        mode=0o660,
        handler=Door(sources).handle,
        allowed_uids=allowed,
        idle=120.0,
    )
    up = Up(executor, source, identity)
    down = Down(executor, source, up, state=options.state)
    gc.collect()
    gc.freeze()
    for name, step in (("up", up.step), ("down", down.step)):
        Loop(name, step, ended=ended, say=say).start()
    ended.wait()
    door.close(timeout=1.0)
    return 0


def say(text: str) -> None:
    """Write a line for the log."""
    sys.stderr.write(f"nebh-agent: {text}\n")
    sys.stderr.flush()
