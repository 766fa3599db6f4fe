"""Commands about specs and images on this computer."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    add_command(
        subparsers,
        common,
        "schema",
        command=Command("spec", "schema"),
        text="print the JSON Schema of service specs, for editors",
        examples=("nebh schema > nebh.schema.json",),
    )
    specs = add_family(subparsers, "spec", text="check service specs", details="Works on this computer alone.")
    check = add_command(
        specs,
        common,
        "check",
        command=Command("spec", "check"),
        text="say everything that is wrong with spec files, with file, line and field",
        examples=("nebh spec check web.yaml db.yaml",),
    )
    check.add_argument("files", nargs="+", metavar="FILE")
