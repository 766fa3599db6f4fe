"""How a demo tells its story: to a person, beside a document for a program, or not at all."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nebh.testing.demo.story import Story


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add `--json` and `--quiet`."""
    parser.add_argument("--json", action="store_true", help="print what was measured; the story goes to standard error")
    parser.add_argument("--quiet", action="store_true", help="no story")


def story_for(options: argparse.Namespace) -> Story:
    """Return the story as these options want it told."""
    if options.quiet:
        return Story(Path(os.devnull).open("w", encoding="utf-8"))
    return Story(sys.stderr if options.json else None)


def print_record(options: argparse.Namespace, build: Path, *, name: str = "demo") -> None:
    """Print what was measured where `--json` asks for it."""
    if options.json:
        sys.stdout.write((build / f"{name}.json").read_text(encoding="utf-8"))
