"""`nebh`: the command line. Commands are registered by name and loaded when they are used: `--help` and `status` start
fast."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from nebh import __version__
from nebh.cli.output import Output, harmless
from nebh.cli.registry import COMMAND_MODULES, Command
from nebh.model.errors import Broken, Failed, NebhError, SpecErrors

_EPILOG = """examples:
  nebh up                         make this machine a cloud
  nebh up root@203.0.113.7        make a fresh VPS one, over your own SSH
  nebh deploy web.yaml            sign and roll out a release; ends with the nodes' receipts
  nebh rollback web               back to the release before
  nebh status
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal. argparse makes one of these for each argument, and would look, and load shutil, anew."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_width())


@functools.cache
def _terminal_width() -> int:
    try:
        columns = int(os.environ.get("COLUMNS", "")) or os.get_terminal_size().columns
    except (ValueError, OSError):
        columns = 80
    return max(columns - 2, 20)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n  `{self.prog} --help` explains\n")


def common_options() -> argparse.ArgumentParser:
    """Return the options that every command takes."""
    parser = _Parser(add_help=False)
    parser.add_argument("--cloud", default="", metavar="NAME", help="which cloud, where this computer knows several")
    parser.add_argument("--at", default="", metavar="root@HOST", help="reach the controller through your own SSH")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress, only the result")
    return parser


def build_parser(*, command: str = "") -> argparse.ArgumentParser:
    """Return the whole command line; with a known command, as much of it as that needs."""
    parser = _Parser(
        prog="nebh",
        description="A cloud of your own: signed releases, updates that are transactions.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"nebh {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    common = common_options()
    needed = [name for name, commands in COMMAND_MODULES.items() if command in commands]
    for name in needed or COMMAND_MODULES:
        importlib.import_module(f"nebh.cli.{name}_options").register(subparsers, common)
    return parser


def main(argv: list[str]) -> int:
    """Run one command; return the exit status."""
    parser = build_parser(command=argv[0] if argv else "")
    options = parser.parse_args(argv)
    if getattr(options, "run_command", None) is None:
        parser.print_help()
        return 0 if not argv else 2
    return guarded(options.run_command, options)


def guarded(command: Command, options: argparse.Namespace) -> int:
    """Run a command; every error becomes one message, a hint and an exit status."""
    out = Output(json_wanted=getattr(options, "json", False), quiet=getattr(options, "quiet", False))
    try:
        return command.load()(options, out)
    except NebhError as error:
        return complain(error, out)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was sent goes on: `nebh status` shows it\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        return complain(Failed(f"cannot go on: {error}"), out)
    except Exception as error:  # a person gets a sentence, and the trace where it can be sent from
        return complain(unexpected(error), out)


def unexpected(error: Exception) -> NebhError:
    """Return what to say of an error that nobody foresaw; its trace goes to a file."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="nebh-trace-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return Broken(
        f"cannot go on: {type(error).__name__}: {error}", hint=f"this is a fault of Nebh; its trace is in {file.name}"
    )


def complain(error: NebhError, out: Output) -> int:
    """Print an error and its hint; return its exit status."""
    if out.json_wanted:
        out.document({"error": error.message, "hint": error.hint, "rule": getattr(error, "rule", "")})
    prefix = "" if isinstance(error, SpecErrors) else "nebh: "
    message = "\n".join(harmless(line) for line in error.message.splitlines())
    sys.stderr.write(f"{prefix}{message}\n")
    if error.hint:
        sys.stderr.write(f"  hint: {harmless(error.hint)}\n")
    return error.exit_status


Load = Callable[[argparse.Namespace, Output], int]
