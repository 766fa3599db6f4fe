"""Commands about backups."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    backups = add_family(
        subparsers,
        "backup",
        text="copy the data of services elsewhere, encrypted, and bring it back",
        details="A service's spec says where to, when and with which password: `backup: {to: /srv/backups, password: "
        "backup-password}`. Its nodes then do it by themselves; see docs/data.md.",
    )
    run = add_command(
        backups,
        common,
        "run",
        command=Command("backups", "run_now"),
        text="make a backup now",
        details="Sends the nodes that hold data of the service an order signed by your key.",
        examples=("nebh backup run db",),
    )
    listing = add_command(
        backups,
        common,
        "list",
        command=Command("backups", "show"),
        text="list backups: those that nodes wrote down, or what a store says that it has",
        examples=("nebh backup list", "nebh backup list db --json", "nebh backup list db --in-store --from node1"),
    )
    listing.add_argument("service", nargs="?", default="", metavar="SERVICE", help="of this service alone")
    listing.add_argument(
        "--in-store", action="store_true", help="have the node look into the store: for one that knows of no backup"
    )
    verify = add_command(
        backups,
        common,
        "verify",
        command=Command("backups", "verify"),
        text="check that the store of a service's backups is whole",
        examples=("nebh backup verify db", "nebh backup verify db --percent 5"),
    )
    verify.add_argument(
        "--percent", type=int, default=100, metavar="N", help="of the contents that are read (0 to 100; default 100)"
    )
    restore = _restore(backups, common)
    for parser in (run, verify):
        parser.add_argument("service", metavar="SERVICE")
    for parser in (run, verify, restore, listing):
        parser.add_argument(
            "--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts"
        )
    for parser in (listing, restore):
        parser.add_argument(
            "--from", dest="source", default="", metavar="NODE", help="made by this node, which may be gone"
        )
    for parser in (run, verify, listing, restore):
        parser.add_argument("--node", default="", metavar="NODE", help="this node alone")


def _restore(backups: Any, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    restore = add_command(
        backups,
        common,
        "restore",
        command=Command("backups", "restore"),
        text="bring the data of a backup back, with a release that reads it",
        details="Sends the node an order signed by your key that names the backup by its id and the hash of its content. "
        "It is fetched while the service runs on; what there is then is put aside (`nebh volume undo`).",
        examples=("nebh backup restore db", "nebh backup restore db 20261121-213045-123 --yes"),
    )
    restore.add_argument("service", metavar="SERVICE")
    restore.add_argument("backup", nargs="?", default="", metavar="BACKUP", help="its name or id; left out: the newest")
    restore.add_argument("--to", type=int, default=0, metavar="RELEASE", help="run this release on it")
    restore.add_argument("--yes", "-y", action="store_true", help="do not ask")
    return restore
