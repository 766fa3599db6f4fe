"""Writing for people and programs: tables, JSON, progress, colours on a terminal only, foreign text made harmless."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "bold": "1", "dim": "2"}


OUTPUT_RULES = {"O4.control": "text of others is written with control characters escaped"}


def harmless(text: str, *, disabled: frozenset[str] = frozenset()) -> str:
    """Return text from controllers, nodes and containers with control characters escaped (O4). disabled: rule ids;
    tests only."""
    if "O4.control" in disabled:
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class Output:
    """Where a command writes. `quiet`: no progress, only results. With `json` results are one JSON document."""

    def __init__(self, *, json_wanted: bool = False, quiet: bool = False) -> None:
        self.json_wanted = json_wanted
        self.quiet = quiet
        self.colourful = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._live = sys.stderr.isatty() and not quiet
        self._open_line = False

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in a colour where colours are wanted."""
        return f"\033[{_COLOURS[colour]}m{text}\033[0m" if self.colourful else text

    def say(self, text: str = "") -> None:
        """Write a line of the result."""
        self._end_line()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Write a line of progress to standard error; none with --quiet or --json."""
        if not self.quiet and not self.json_wanted:
            self._end_line()
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def progress(self, text: str) -> None:
        """Replace the line of progress on a terminal; nothing elsewhere."""
        if self._live and not self.json_wanted:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()
            self._open_line = True

    def _end_line(self) -> None:
        if self._open_line:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._open_line = False

    def document(self, value: object) -> None:
        """Write the result as JSON."""
        self._end_line()
        sys.stdout.write(json.dumps(value, indent=2, sort_keys=False, default=str) + "\n")
        sys.stdout.flush()

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Write a table, columns as wide as they need to be."""
        texts = [[harmless(str(cell)) for cell in row] for row in rows]
        widths = [max([len(head), *(len(row[n]) for row in texts)]) for n, head in enumerate(heads)]
        self.say(
            self.paint("  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip(), "bold")
        )
        for row in texts:
            self.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on the terminal; without one, only `yes` (a flag of the command) agrees."""
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
