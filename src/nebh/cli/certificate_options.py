"""The command about certificates of routes."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add it."""
    family = add_family(
        subparsers,
        "certificate",
        text="look at the certificates of routes",
        details="A route's `tls` says where its certificate comes from: a secret, or an authority that the node itself asks "
        "(`acme`). Nodes renew theirs with a third of its life left, and warn 30, 7 and 1 days before one ends.",
    )
    listing = add_command(
        family,
        common,
        "list",
        command=Command("certificates", "show_certificates"),
        text="list certificates by host: until when, of whom, and what a renewal waits for",
        details="Certificates in files of a node (`cert` and `key`) are not listed: nobody but you renews them.",
        examples=("nebh certificate list", "nebh certificate list web --json"),
    )
    listing.add_argument("service", nargs="?", default="", metavar="SERVICE", help="of this service alone")
