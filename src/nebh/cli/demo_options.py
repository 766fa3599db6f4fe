"""Commands that show what Nebh does, on a cloud that lasts as long as they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    demos = add_family(
        subparsers,
        "demo",
        text="watch a story on this machine, in a cloud of its own",
        details="As root: founds a cloud in a network namespace, plays a story in it beside a live load, writes what was "
        "measured, and takes everything away. A cloud that this machine is part of is not touched. docs/demo.md.",
    )
    updates = add_command(
        demos,
        common,
        "updates",
        command=Command("demo", "updates"),
        text="an application updated, rolled back, attacked and cut off from power",
        details="Plays the story of `make demo`: needs about 2 GiB of disk and five to seven minutes. Exit status 0 when "
        "everything was proven.",
        examples=("nebh demo updates", "nebh demo updates --examples ~/nebh/examples --json"),
    )
    data = add_command(
        demos,
        common,
        "data",
        command=Command("demo", "data"),
        text="a PostgreSQL converted, broken and taken back, while notes are written",
        details="Plays the story of `make demo-data`: a release that converts a database, one that breaks it, one that "
        "fails its check, and the way back with the data restored; every note that somebody was told of is looked for. "
        "Needs about 2 GiB of disk and three to five minutes. Exit status 0 when everything was proven.",
        examples=("nebh demo data", "nebh demo data --examples ~/nebh/examples --build /var/tmp/nebh-demo"),
    )
    for parser in (updates, data):
        parser.add_argument(
            "--examples",
            type=Path,
            default=Path("examples"),
            metavar="DIR",
            help="the folder examples/ of a checkout (default: that of this folder)",
        )
        parser.add_argument(
            "--build",
            type=Path,
            default=Path("build"),
            metavar="DIR",
            help="where images and what was measured go (default: build)",
        )
