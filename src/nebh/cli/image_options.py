"""Commands about images on this computer."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.moving_options import add_moving
from nebh.cli.registry import Command, add_command, add_family

_BUILDING = {
    "lock": (
        "pin every source of an image declaration by digest",
        """Resolve the packages of a declaration and pin every source by its SHA-256, in a file beside the declaration:
image.yaml -> image.lock. Commit it: the same declaration and lock give the same image.""",
    ),
    "build": (
        "build an image from its declaration and lock",
        """Fetch what the lock pins, lay it over each other, run the build's commands in a sandbox without network, reduce
the tree and keep it as an image. No script of a package is run. With --json: digest, files, bytes, lint.""",
    ),
    "verify": (
        "build an image again from nothing and compare",
        """Build again, with nothing kept from earlier builds but the fetched sources, and compare with IMAGE, or with what
was built from this declaration last. Ends with 0 when both are the same tree.""",
    ),
}


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    images = add_family(
        subparsers,
        "image",
        text="build, import, inspect, export and move images",
        details="Works on this computer alone, but for `push`, `collect`, the registry door and `door:` sources. SOURCE "
        "is a path (directory, OCI layout, rootfs tar), a digest of an imported image, or dir:, tar:, oci:, "
        "docker-archive:, registry: or door: (the controller's own registry door) and what they lead to. IMAGE is a "
        "digest of an image on this computer, the first letters of one, or the name of a built one.",
    )
    _add_build(images, common)
    _add_sources(images, common)
    _add_kept(images, common)
    _add_prune(images, common)
    add_moving(images, common)


def _add_build(images: Any, common: argparse.ArgumentParser) -> None:
    for name, (text, details) in _BUILDING.items():
        example = f"nebh image {name} image.yaml"
        parser = add_command(
            images, common, name, command=Command("images", name), text=text, details=details, examples=(example,)
        )
        parser.add_argument("declaration", nargs="?", default="image.yaml", metavar="FILE", help="default: image.yaml")
        if name == "build":
            parser.add_argument(
                "--refresh", action="store_true", help="pin the project's own files in the lock as they are now"
            )
        if name != "lock":
            parser.add_argument("--on-node", action="store_true", help="run build commands though this machine serves")
        if name == "verify":
            parser.add_argument("--against", default="", metavar="IMAGE", help="the image to compare with")


def _add_sources(images: Any, common: argparse.ArgumentParser) -> None:
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


def _add_kept(images: Any, common: argparse.ArgumentParser) -> None:
    for name, text, example in (
        ("list", "list the images on this computer", "nebh image list"),
        ("rm", "remove an image from this computer, and what only it needed", "nebh image rm 3f9a2c"),
        ("diff", "show what differs between two images", "nebh image diff 3f9a2c 81d0e7"),
        ("sbom", "print what an image was built from", "nebh image sbom web --format cyclonedx"),
        ("provenance", "print how an image was built, as an in-toto statement", "nebh image provenance web"),
        ("export", "write an image as an OCI layout or for `docker load`", "nebh image export web oci:./layout"),
    ):
        command = Command("images", {"list": "show_list", "rm": "remove"}.get(name, name))
        parser = add_command(images, common, name, command=command, text=text, examples=(example,))
        if name == "diff":
            parser.add_argument("old", metavar="A")
            parser.add_argument("new", metavar="B")
        elif name != "list":
            parser.add_argument("image", metavar="IMAGE")
        if name == "sbom":
            parser.add_argument("--format", choices=("spdx", "cyclonedx"), default="spdx", help="default: spdx")
        if name == "export":
            parser.add_argument("to", metavar="TO", help="oci:FOLDER or docker-archive:FILE")


def _add_prune(images: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        images,
        common,
        "prune",
        command=Command("images", "prune"),
        text="remove fetched and unpacked sources that no build used for a while",
        details="Images stay; sources that are needed again are fetched again. `nebh image build` does this by itself "
        "for what was not used for 30 days.",
        examples=("nebh image prune", "nebh image prune --older-than 7d"),
    )
    parser.add_argument("--older-than", default="30d", metavar="TIME", help="since when nobody used it (30d)")
