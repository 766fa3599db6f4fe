"""Commands about specs and images on this computer."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.moving_options import add_moving
from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    add_command(
        subparsers,
        common,
        "schema",
        command=Command("spec", "schema"),
        text="print the JSON Schema of service specs, for editors",
        examples=("nebh schema > nebh.schema.json",),
    )
    specs = add_family(subparsers, "spec", text="check service specs", details="Works on this computer alone.")
    check = add_command(
        specs,
        common,
        "check",
        command=Command("spec", "check"),
        text="say everything that is wrong with spec files, with file, line and field",
        examples=("nebh spec check web.yaml db.yaml",),
    )
    check.add_argument("files", nargs="+", metavar="FILE")
    _images(subparsers, common)


def _images(subparsers: Any, common: argparse.ArgumentParser) -> None:
    images = add_family(
        subparsers,
        "image",
        text="import, inspect, lint and move images",
        details="Works on this computer alone, but for `push`, the registry door and `door:` sources. SOURCE is a path (directory, OCI layout, rootfs tar), a digest of an "
        "imported image, or dir:, tar:, oci:, docker-archive:, registry: or "
        "door: (the controller's own registry door) and what they lead to.",
    )
    for name, text, example in (
        ("import", "import an image into this computer's cache and print its digest", "nebh image import ./rootfs"),
        ("inspect", "show what an image holds and which command it proposes", "nebh image inspect app.tar.gz --files"),
        ("lint", "show everything in an image that its process should not need", "nebh image lint oci:./layout"),
    ):
        parser = add_command(
            images, common, name, command=Command("spec", f"image_{name}"), text=text, examples=(example,)
        )
        parser.add_argument("source", metavar="SOURCE")
        if name == "inspect":
            parser.add_argument("--files", action="store_true", help="list every file, not only the largest")
    add_moving(images, common)
