"""`nebh up root@HOST`."""

from __future__ import annotations

import argparse

from nebh.cli.output import Output
from nebh.model.errors import BadInput


def up_remote(options: argparse.Namespace, out: Output) -> int:
    """Install and start Nebh on a machine behind SSH, found a cloud there; the operator's key stays here."""
    raise BadInput(f"cannot bring {options.target} up yet")
