"""Commands about machines: make one a cloud, add one, look at one, leave one."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    up = add_command(
        subparsers,
        common,
        "up",
        command=Command("up", "up"),
        text="make this machine, or root@HOST, a cloud",
        details="Without a target: makes this machine a whole cloud (controller, agent, executor), as systemd units "
        "where systemd runs, else supervised in the foreground. With a target: installs Nebh there over your own SSH "
        "and enrols it; the operator key stays on this computer.",
        examples=("nebh up", "nebh up root@203.0.113.7", "nebh up --http-port 8080 --foreground"),
    )
    up.add_argument("target", nargs="?", default="", metavar="root@HOST")
    up.add_argument("--state", default="/var/lib/nebh", metavar="DIR", help="folder that survives a reboot")
    up.add_argument("--run", default="/run/nebh", metavar="DIR", help="folder for sockets")
    up.add_argument("--name", default="", metavar="NAME", help="name of the cloud (default: the host's name)")
    up.add_argument("--http-port", type=int, default=80, metavar="PORT", help="where the ingress listens for HTTP")
    up.add_argument("--https-port", type=int, default=443, metavar="PORT", help="where the ingress listens for HTTPS")
    up.add_argument("--cgroup-parent", default="nebh", metavar="NAME", help="folder name for control groups")
    up.add_argument("--foreground", action="store_true", help="supervise here even where systemd runs")
    up.add_argument(
        "--listen", default="", metavar="ADDR:PORT", help="let the controller also listen on TCP with TLS 1.3"
    )
    up.add_argument("--words-file", default="", metavar="FILE", help="write the recovery words there instead of asking")
    up.add_argument("--subnet4", default="", metavar="CIDR", help="IPv4 /20 for this node's instances")
