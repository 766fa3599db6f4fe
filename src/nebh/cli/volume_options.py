"""Commands about the data of services."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    volumes = add_family(
        subparsers,
        "volume",
        text="look at the data of services, and bring back what was put aside",
        details="A volume is data that one allocation on one node owns. Every update keeps a snapshot of it before the new "
        "release may write; `nebh rollback SERVICE --data restore` goes back to one.",
    )
    listing = add_command(
        volumes,
        common,
        "list",
        command=Command("volumes", "show_volumes"),
        text="list volumes: where they are, and which version of the data they hold",
        examples=("nebh volume list", "nebh volume list db --json"),
    )
    snapshots = add_command(
        volumes,
        common,
        "snapshots",
        command=Command("volumes", "show_snapshots"),
        text="list what is kept of the data: before which update, and until when",
        examples=("nebh volume snapshots db",),
    )
    for parser in (listing, snapshots):
        parser.add_argument("service", nargs="?", default="", metavar="SERVICE", help="of this service alone")
    undo = add_command(
        volumes,
        common,
        "undo",
        command=Command("volumes", "undo"),
        text="bring back what the last restore put aside, with the release that wrote it",
        details="Sends the nodes an order signed by your key. What there is now is put aside in its turn.",
        examples=("nebh volume undo db", "nebh volume undo db --snapshot d12 --yes"),
    )
    undo.add_argument("service", metavar="SERVICE")
    undo.add_argument("--snapshot", default="", metavar="NAME", help="another than the newest that was put aside")
    undo.add_argument("--yes", "-y", action="store_true", help="do not ask")
    undo.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts")
