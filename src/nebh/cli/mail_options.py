"""Commands about mail."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    mail = add_family(
        subparsers,
        "mail",
        text="see how events go out by mail, and try it",
        details="The controller mails events of severity warning and above to whom its controller.json names: "
        "docs/operations.md.",
    )
    add_command(
        mail,
        common,
        "status",
        command=Command("mail", "status"),
        text="show where mail goes, what waits, and what the mail server said last",
        examples=("nebh mail status", "nebh mail status --json"),
    )
    add_command(
        mail,
        common,
        "test",
        command=Command("mail", "test"),
        text="send one mail now, and say what the mail server said",
        examples=("nebh mail test",),
    )
