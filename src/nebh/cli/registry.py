"""Commands by module and function name: nothing is imported before it is used.

Each entry of COMMAND_MODULES stands for a module `<name>_options.py` whose `register(subparsers, common)` adds parsers;
their functions live in modules that those name.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nebh.cli.output import Output
from nebh.model.errors import BadInput

COMMAND_MODULES: dict[str, tuple[str, ...]] = {
    "machine": ("up", "down", "doctor", "node-end"),
    "service": (
        *("deploy", "plan", "rollback", "stop", "start", "restart", "scale"),
        *("pin", "unpin", "rm", "abort", "resume"),
    ),
    "show": ("status", "releases", "version", "completion", "events", "history", "logs", "why", "inspect"),
    "trust": ("init", "key", "trust"),
    "spec": ("schema", "spec"),
    "secret": ("secret",),
    "image": ("image",),
    "volume": ("volume",),
    "backup": ("backup",),
    "certificate": ("certificate",),
    "rehearse": ("rehearse",),
    "mail": ("mail",),
    "config": ("config",),
    "demo": ("demo",),
}
"""The commands that each module adds: a test compares. A command that is named has only its own module's parsers made."""


@dataclass(frozen=True)
class Command:
    """`nebh.cli.<module>.<function>(options, out) -> exit status`."""

    module: str
    function: str

    def load(self) -> Callable[[argparse.Namespace, Output], int]:
        """Import and return the function."""
        function: Callable[[argparse.Namespace, Output], int] = getattr(
            importlib.import_module(f"nebh.cli.{self.module}"), self.function
        )
        return function


def add_command(
    subparsers: Any,
    common: argparse.ArgumentParser,
    name: str,
    *,
    command: Command,
    text: str,
    details: str = "",
    examples: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """Add a subcommand with the common options and return its parser. text: one line; details: what it promises."""
    epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=details or text[0].upper() + text[1:] + ".",
        parents=[common],
        epilog=epilog,
    )
    parser.set_defaults(run_command=command)
    return parser


def add_family(subparsers: Any, name: str, *, text: str, details: str) -> Any:
    """Add a command that only holds subcommands; return what they are added to."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text, description=details)
    parser.set_defaults(run_command=Command("registry", "need_subcommand"))
    return parser.add_subparsers(dest="subcommand", metavar="WHAT", parser_class=type(parser))


def need_subcommand(options: argparse.Namespace, out: Output) -> int:  # noqa: ARG001 - the shape of a command
    """Say that a subcommand is needed."""
    raise BadInput(
        f"cannot do `nebh {options.command}` alone", hint=f"`nebh {options.command} --help` lists what it does"
    )
