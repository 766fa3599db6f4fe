"""Commands that change what runs."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command


def _follow_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="do not wait for the nodes' receipts")
    parser.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts")
    parser.add_argument("--yes-widen", action="store_true", help="agree to changes that allow more than before")


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    deploy = add_command(
        subparsers,
        common,
        "deploy",
        command=Command("deploy", "deploy"),
        text="sign a release of a service and roll it out",
        details="Imports the image, signs policy (where it changed) and release, publishes, rolls out, and ends with "
        "the receipts that prove it, the time each phase took and the command that would undo it.",
        examples=("nebh deploy web.yaml", "nebh deploy web.yaml --prepare   # get ready; `nebh resume web` runs it"),
    )
    deploy.add_argument("spec", metavar="SPEC.yaml")
    deploy.add_argument(
        "--prepare", action="store_true", help="get everything ready on the nodes, change nothing visible"
    )
    _follow_options(deploy)
    plan = add_command(
        subparsers,
        common,
        "plan",
        command=Command("deploy", "plan"),
        text="show what a deploy would change, before anything changes",
        examples=("nebh plan web.yaml",),
    )
    plan.add_argument("spec", metavar="SPEC.yaml")
