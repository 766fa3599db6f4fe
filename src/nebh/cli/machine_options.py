"""Commands about machines: make one a cloud, add one, look at one, leave one."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command

_UNSEEN = "what `nebh up root@HOST` asks of the machine it founds a cloud on"


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
    add_places(up)
    up.add_argument("--name", default="", metavar="NAME", help="name of the cloud (default: the host's name)")
    up.add_argument("--http-port", type=int, default=80, metavar="PORT", help="where the ingress listens for HTTP")
    up.add_argument("--https-port", type=int, default=443, metavar="PORT", help="where the ingress listens for HTTPS")
    up.add_argument("--cgroup-parent", default="", metavar="NAME", help="folder name for control groups")
    up.add_argument("--foreground", action="store_true", help="supervise here even where systemd runs")
    up.add_argument(
        "--listen", default="", metavar="ADDR:PORT", help="let the controller also listen on TCP with TLS 1.3"
    )
    up.add_argument("--words-file", default="", metavar="FILE", help="write the recovery words there instead of asking")
    up.add_argument("--subnet4", default="", metavar="CIDR", help="IPv4 /20 for this node's instances")
    up.add_argument("--prefix", default="/opt/nebh", metavar="DIR", help="root@HOST: where the programs go there")
    # for `nebh up root@HOST`, which runs us there: the key that signs this machine in is on another computer
    up.add_argument("--enrol-later", action="store_true", help=argparse.SUPPRESS)
    down = add_command(
        subparsers,
        common,
        "down",
        command=Command("down", "down"),
        text="end this machine's cloud",
        details="Ends containers, ingress, resolver, links, rules, programs and units: exactly what Nebh made here. "
        "With --purge the state goes too: data, releases, the node's keys. It says what stays. Safe to repeat.",
        examples=("nebh down", "nebh down --purge", "nebh down --purge --forget-key"),
    )
    add_places(down)
    down.add_argument("--purge", action="store_true", help="remove the state too: data and releases of this node")
    down.add_argument("--forget-key", action="store_true", help="with --purge: also remove the operator's key here")
    down.add_argument("--yes", action="store_true", help="do not ask")
    doctor = add_command(
        subparsers,
        common,
        "doctor",
        command=Command("doctor", "doctor"),
        text="look whether all is well, and say what gets what is not",
        details="On a node as root: the machine, its programs, the firewall, clock, disk, signatures (a forged "
        "assignment must be refused, a good request carried out), exposed ports. From elsewhere: what the controller "
        "shows. Exit status 1 when something fails.",
        examples=("nebh doctor", "nebh doctor --json"),
    )
    add_places(doctor)
    end = add_command(subparsers, common, "node-end", command=Command("node_end_command", "node_end"), text=_UNSEEN)
    end.add_argument("action", choices=("identity", "controller", "pin-root", "enrol"))
    add_places(end)
    for word in ("--cluster-id", "--node-id", "--name"):
        end.add_argument(word, default="")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add where a machine's cloud keeps its files."""
    parser.add_argument("--state", default="/var/lib/nebh", metavar="DIR", help="folder that survives a reboot")
    parser.add_argument("--run", default="/run/nebh", metavar="DIR", help="folder for sockets")
