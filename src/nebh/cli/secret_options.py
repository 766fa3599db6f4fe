"""Commands about secrets."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    family = add_family(
        subparsers,
        "secret",
        text="set, rotate and list values that only a service's nodes can read",
        details="A value is sealed on this computer to each node that the service's policy admits, and kept in the vault "
        "beside your key, so that a new node can be given it. Values come from standard input, a file, an editor or a "
        "password manager, never from the command line. docs/secrets.md tells more.",
    )
    _set(family, common)
    _edit(family, common)
    _list(family, common)
    _rotate(family, common)
    _who(family, common)
    _import(family, common)
    _forget(family, common)


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="SERVICE/NAME", help="such as web/db-password")


def _sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--file", default="", metavar="FILE", help="take the value from a file, byte for byte")
    group.add_argument(
        "--command",
        dest="command_line",
        default="",
        metavar="LINE",
        help="take what this program prints; no shell reads it",
    )
    group.add_argument(
        "--generate", default="", metavar="RULE", help="make it: a length and alnum, hex, base64 or digits"
    )
    parser.add_argument("--raw", action="store_true", help="keep the newline at the end of a single line")


def _wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="do not wait for the nodes' receipts")
    parser.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts")
    parser.add_argument("--yes-widen", action="store_true", help="agree to changes that allow more than before")


def _set(family: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        family,
        common,
        "set",
        command=Command("secret", "set_secret"),
        text="give a secret a value, read from standard input",
        details="Seals the value to every node that may read it, signs the list, and waits until nodes that run the service "
        "have put the new value in the place of the old one. No release is made: instances run on and get the signal that "
        "their spec names. Before the service's first deploy the value is kept in the vault.",
        examples=(
            "nebh secret set web/db-password < password.txt",
            "nebh secret set web/db-password            # asks twice on a terminal",
            'nebh secret set web/db-password --command "pass show web/db"',
            "nebh secret set web/tls-key --file key.pem",
            'nebh secret set web/session-key --generate "32 alnum"',
        ),
    )
    _key(parser)
    _sources(parser)
    _wait(parser)


def _edit(family: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        family,
        common,
        "edit",
        command=Command("secret", "edit"),
        text="change a value in an editor",
        details="Opens $VISUAL, $EDITOR or vi on the value in a file in memory that is gone afterwards. Nothing happens "
        "when the value stays as it was.",
        examples=("nebh secret edit web/app-config",),
    )
    _key(parser)
    _wait(parser)


def _list(family: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        family,
        common,
        "list",
        command=Command("secret", "list_secrets"),
        text="list secrets: version, who may read them, whether this computer has the value",
        details="Names, versions and nodes only: no command prints a value.",
        examples=("nebh secret list", "nebh secret list web", "nebh secret list --json"),
    )
    parser.add_argument("service", nargs="?", default="", metavar="SERVICE")


def _rotate(family: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        family,
        common,
        "rotate",
        command=Command("secret", "rotate"),
        text="put a new value in the place of one that is signed",
        details="One that was generated is generated anew by the same rule; for others the value is read as `nebh secret set` "
        "reads it. Running instances get it without a deploy.",
        examples=("nebh secret rotate web/session-key", "nebh secret rotate web/db-password < new.txt"),
    )
    _key(parser)
    _sources(parser)
    _wait(parser)


def _who(family: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        family,
        common,
        "who",
        command=Command("secret", "who"),
        text="show who can read a secret: nodes with a box, and whose key opens the vault",
        examples=("nebh secret who web/db-password",),
    )
    _key(parser)


def _import(family: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        family,
        common,
        "import",
        command=Command("secret", "import_secrets"),
        text="take many values at once from a .env or JSON file, or from a copy of the vault",
        details="DB_PASSWORD becomes the secret db-password. With --vault FILE is a copy of a vault of this cloud, of an "
        "earlier computer or a backup: what is newer in it is taken over; it opens with the keys it was sealed to.",
        examples=("nebh secret import web production.env", "nebh secret import --vault /media/usb/vault.json"),
    )
    parser.add_argument("service", nargs="?", default="", metavar="SERVICE")
    parser.add_argument("file", metavar="FILE", help="- = standard input")
    parser.add_argument("--vault", action="store_true", help="FILE is a copy of this cloud's vault")
    _wait(parser)


def _forget(family: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        family,
        common,
        "forget",
        command=Command("secret", "forget"),
        text="remove a value from the vault on this computer",
        details="Nodes keep what they have; a secret leaves them with its line in the spec, at the next deploy. Afterwards no "
        "new node can be given the value from here.",
        examples=("nebh secret forget web/old-password",),
    )
    _key(parser)
