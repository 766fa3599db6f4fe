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
        "release may write; `nebh rollback SERVICE --data restore` goes back to one. What rewinds, copies or deletes data "
        "is an order that your key signs: no controller can ask for it.",
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
    _add_orders(volumes, common)
    _add_looks(volumes, common)


def _add_looks(volumes: Any, common: argparse.ArgumentParser) -> None:
    files = add_command(
        volumes,
        common,
        "files",
        command=Command("volume_look", "files"),
        text="list the names in a volume, or in a snapshot of it",
        details="Asks the node by a question that your key signs, and the answer is sealed for this command: neither "
        "the controller nor the agent can ask for names of files, or read them.",
        examples=("nebh volume files db", "nebh volume files db/data:t12 base -r", "nebh volume files db --json"),
    )
    files.add_argument("what", metavar="SERVICE[/VOLUME][:SNAPSHOT]")
    files.add_argument("path", nargs="?", default="", metavar="PATH", help="this folder of the volume")
    files.add_argument("--recursive", "-r", action="store_true", help="with all below it")
    diff = add_command(
        volumes,
        common,
        "diff",
        command=Command("volume_look", "diff"),
        text="list what was added, removed and changed between two states of a volume",
        details="A file counts as the same when size, time, mode and owner are.",
        examples=("nebh volume diff db t12", "nebh volume diff db/data t12 t15 --json"),
    )
    diff.add_argument("what", metavar="SERVICE[/VOLUME]")
    diff.add_argument("older", metavar="SNAPSHOT")
    diff.add_argument("newer", nargs="?", default="now", metavar="SNAPSHOT2", help="another snapshot (default: now)")
    for parser in (files, diff):
        parser.add_argument("--limit", type=int, default=1000, metavar="N", help="at most so many names (default 1000)")
        parser.add_argument("--replica", type=int, default=None, metavar="N", help="of this allocation")
        parser.add_argument("--node", default="", metavar="NAME", help="on this node")
    usage = add_command(
        volumes,
        common,
        "usage",
        command=Command("volume_look", "usage"),
        text="say how full volumes are, what only snapshots hold, and what the storage has left",
        examples=("nebh volume usage", "nebh volume usage db --json"),
    )
    usage.add_argument("service", nargs="?", default="", metavar="SERVICE", help="of this service alone")


def _add_orders(volumes: Any, common: argparse.ArgumentParser) -> None:
    snapshot = add_command(
        volumes,
        common,
        "snapshot",
        command=Command("volume_orders", "snapshot"),
        text="keep the data as it is now, until the snapshot is deleted",
        details="The writer comes to rest by `data.quiesce` of its release, else it is frozen for the moment. Without "
        "VOLUME all of class state and shared-state are kept, at one instant.",
        examples=("nebh volume snapshot db", "nebh volume snapshot db/data --json"),
    )
    snapshot.add_argument("what", metavar="SERVICE[/VOLUME]")
    restore = add_command(
        volumes,
        common,
        "restore",
        command=Command("volume_orders", "restore"),
        text="go back to a snapshot, with the release that wrote it",
        details="As `nebh rollback SERVICE --data restore`, for any snapshot. What is there now is put aside; `nebh volume "
        "undo` brings it back.",
        examples=("nebh volume restore db m3f9c01ab72de", "nebh volume restore db m3f9c01ab72de --to 7 --yes"),
    )
    restore.add_argument("service", metavar="SERVICE")
    restore.add_argument("snapshot", metavar="SNAPSHOT")
    restore.add_argument(
        "--to", type=int, default=0, metavar="RELEASE", help="with this release instead; it has to read that data"
    )
    clone = add_command(
        volumes,
        common,
        "clone",
        command=Command("volume_orders", "clone"),
        text="let another service begin with the data of a snapshot",
        details="Puts a copy where the volume of a service begins that was not deployed on that node yet. Its first "
        "release then starts on this data, and migrates it where it is older than what it writes.",
        examples=("nebh volume clone db m3f9c01ab72de --to db-copy", "nebh volume clone db/data t12 --to try/files"),
    )
    clone.add_argument("what", metavar="SERVICE[/VOLUME]")
    clone.add_argument("snapshot", metavar="SNAPSHOT")
    clone.add_argument("--to", required=True, metavar="SERVICE[/VOLUME]", help="who begins with it; same volume name")
    delete = add_command(
        volumes,
        common,
        "delete-snapshot",
        command=Command("volume_orders", "delete_snapshot"),
        text="delete a snapshot for ever",
        examples=("nebh volume delete-snapshot db m3f9c01ab72de", "nebh volume delete-snapshot db/data d12 --yes"),
    )
    delete.add_argument("what", metavar="SERVICE[/VOLUME]")
    delete.add_argument("snapshot", metavar="SNAPSHOT")
    delete.add_argument("--force", action="store_true", help="also the last one that an update took")
    for parser in (restore, delete):
        parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    for parser in (snapshot, restore, clone, delete):
        parser.add_argument(
            "--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts"
        )
    _add_undo(volumes, common)


def _add_undo(volumes: Any, common: argparse.ArgumentParser) -> None:
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
