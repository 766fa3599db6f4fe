"""`nebh-executor` on the node, as root, with controller and network gone: status, rollback, debug."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nebh import __version__
from nebh.host.layout import DEFAULT_RUN, DEFAULT_STATE
from nebh.host.toolbox import enter_toolbox
from nebh.model.quantities import render_size

if TYPE_CHECKING:  # `serve` forks its helpers before it loads much
    from nebh.client.frame_channel import FrameChannel

Connect = Callable[[], "FrameChannel"]
_EXAMPLES = """examples:
  nebh-executor status
  nebh-executor rollback web            the release before the one that runs
  nebh-executor rollback web --to 7
  nebh-executor debug web-8-0-3 --tools /srv/toolbox
  nebh-executor debug web-8-0-3 --tools /srv/toolbox -- /bin/ps aux
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="nebh-executor",
        description="The privileged half of a node. Its commands work on the node itself, as root, with controller and "
        "network gone.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", default=str(DEFAULT_STATE), metavar="DIR", help="folder that survives a reboot")
    parser.add_argument("--run", default=str(DEFAULT_RUN), metavar="DIR", help="folder for sockets")
    parser.add_argument("--version", action="version", version=f"nebh-executor {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the executor (systemd or `nebh up` does this)")
    status = commands.add_parser("status", help="what runs on this node, from the executor itself")
    status.add_argument("--json", action="store_true", help="print JSON")
    rollback = commands.add_parser("rollback", help="go back to a release that this node kept")
    rollback.add_argument("service")
    rollback.add_argument("--to", type=int, default=0, metavar="N", help="the release (default: the one before)")
    debug = commands.add_parser("debug", help="join an instance's namespaces with tools of your own; recorded")
    debug.add_argument("instance", metavar="ALLOCATION")
    debug.add_argument("--tools", required=True, metavar="TREE", help="folder with a root file system of tools")
    debug.add_argument("argv", nargs="*", default=[], help="what to run in it, after `--` (default: /bin/sh)")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line. argparse takes no words after `--` once options stood between them and a positional, so
    we take them ourselves."""
    place = argv.index("--") if "debug" in argv and "--" in argv else len(argv)
    options = build_parser().parse_args(argv[:place])
    if argv[place + 1 :]:
        options.argv = argv[place + 1 :]
    return options


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Carry out a command; return the exit status. Raises what the executor answers, Unreachable."""
    with connect() as channel:
        if options.command == "status":
            answer, _ = channel.request({"op": "status"})
            say(json.dumps(answer, indent=2) if options.json else render_status(answer))
            return 0
        if options.command == "rollback":
            answer, _ = channel.request({"op": "rollback", "service": options.service, "to": options.to})
            say(f"going back to release {answer['to']} of {options.service}; `nebh-executor status` shows how far")
            return 0
        answer, _ = channel.request({"op": "debug", "instance": options.instance})
    return enter_toolbox(
        pid=int(answer["pid"]), tree=os.path.realpath(options.tools), argv=tuple(options.argv) or ("/bin/sh",)
    )


def say(text: str) -> None:
    """Write a line for people or a JSON text to standard output."""
    sys.stdout.write(text + "\n")


def render_status(status: dict[str, Any]) -> str:
    """Return the status for people."""
    lines = [f"node {status['node_id'][:12]} of cluster {status['cluster_id'] or '(not enrolled)'}"]
    lines.append(f"disk free: {render_size(status['disk_free'])}")
    for one in status["running"]:
        open_now = f"  {one['transaction']} -> release {one['target']}" if one["transaction"] else ""
        lines.append(f"{one['service']}: release {one['counter']}, {one['ready']}/{one['replicas']} serving{open_now}")
    for one in status["instances"]:
        ended = f"  last: {one['last_exit']}" if one["last_exit"] else ""
        lines.append(f"  {one['id']:<24} {one['role']:<8} {one['status']:<8} pid {one['pid']}{ended}")
    return "\n".join(lines)
