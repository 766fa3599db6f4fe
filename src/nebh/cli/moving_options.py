"""Commands that move images: `nebh image push` and those about the registry door."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command
from nebh.cli.service_options import rate_option


def add_moving(images: Any, common: argparse.ArgumentParser) -> None:
    """Add them to the family `image`."""
    push = add_command(
        images,
        common,
        "push",
        command=Command("push", "push"),
        text="send an image to the controller ahead of a deploy: only what it lacks, as changes of what it holds",
        details="Imports SOURCE and has the controller hold it. Nothing of it runs before a release that names it is "
        "signed. A broken connection is taken up where it broke.",
        examples=(
            "nebh image push ./rootfs",
            "nebh image push oci:./layout --limit-rate 2M",
            "nebh image push ./rootfs --to s3://store.example/bucket",
        ),
    )
    push.add_argument("source", metavar="SOURCE")
    push.add_argument(
        "--to", default="", metavar="MIRROR", help="fill a mirror instead: a folder that a web server shows, or s3://…"
    )
    rate_option(push)
