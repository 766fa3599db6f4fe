"""The command that tries a release on a copy of the data."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command


def _counter(text: str) -> int:
    """Return the number of a release. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > 12 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a release")
    return int(text)


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add it."""
    rehearse = add_command(
        subparsers,
        common,
        "rehearse",
        command=Command("rehearse", "rehearse"),
        text="try a release on a copy of the data, apart from what serves",
        details="Without --to: the release that a rollback would go back to. Every node that runs the service copies its "
        "data (the writer stands still for that moment), starts the release on the copy where nothing reaches it and it "
        "reaches nothing, runs its migrations and its checks, and takes all of it away again. Sends an order signed by "
        "your key. Ends with an exit status that is not 0 when the rehearsal fails. Ctrl-C ends it on the nodes, too.",
        examples=(
            "nebh rehearse db                # would a rollback work?",
            "nebh rehearse db --to 7 --json  # would release 7 start on today's data?",
        ),
    )
    rehearse.add_argument("service", metavar="SERVICE")
    rehearse.add_argument("--to", type=_counter, default=0, metavar="N", help="number of the release to try")
    rehearse.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts")
