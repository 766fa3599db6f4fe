"""`nebh demo`: becomes the program that tells a story. Programs do not import what tests use."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import nebh
from nebh.cli.output import Output
from nebh.host.rooting import become_settled
from nebh.model.errors import NotFound

_CLONE = "git clone Nebh, and give `--examples` the folder examples/ of it"


def updates(options: argparse.Namespace, out: Output) -> int:
    """Play the story of updates."""
    return _become("nebh.testing.demo", options, out, specs="demo", needed=("demo/web.yaml", "demo/db.yaml"))


def data(options: argparse.Namespace, out: Output) -> int:
    """Play the story of data."""
    return _become("nebh.testing.demo.data", options, out, specs="", needed=("data/database", "images/postgresql"))


def _become(module: str, options: argparse.Namespace, out: Output, *, specs: str, needed: tuple[str, ...]) -> int:
    examples = Path(options.examples)
    missing = [one for one in needed if not (examples / one).exists()]
    if missing:
        raise NotFound(f"cannot tell this story: {examples} has no {' and no '.join(missing)}", hint=_CLONE)
    if importlib.util.find_spec("nebh.testing") is None:
        raise NotFound("cannot tell this story: these programs were installed without nebh.testing", hint=_CLONE)
    # -P: neither the current folder nor what lies in it decides which code runs as root.
    os.environ["PYTHONPATH"] = str(Path(nebh.__file__).parents[1])
    argv = [sys.executable, "-P", "-m", module, "--specs", str(examples / specs), "--build", str(options.build)]
    argv += ["--json"] * out.json_wanted + ["--quiet"] * out.quiet
    become_settled(tuple(argv))
