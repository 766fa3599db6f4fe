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
            "nebh image push ./rootfs --to /srv/www/nebh --config-of web",
        ),
    )
    push.add_argument("source", metavar="SOURCE")
    push.add_argument(
        "--to", default="", metavar="MIRROR", help="fill a mirror instead: a folder that a web server shows, or s3://…"
    )
    push.add_argument(
        "--config-of",
        action="append",
        default=[],
        metavar="SERVICE",
        help="with --to: also what the files of this service's releases are rendered from",
    )
    rate_option(push)
    _door(images, common)
    _upkeep(images, common)


def _upkeep(images: Any, common: argparse.ArgumentParser) -> None:
    add_command(
        images,
        common,
        "collect",
        command=Command("push", "collect"),
        text="have the controller remove objects that no release it keeps needs",
        details="It does so by itself every few hours. The last N releases of each service, pinned ones, running ones and "
        "those being deployed stay, and whatever was sent or asked for within a day.",
        examples=("nebh image collect",),
    )


def _door(images: Any, common: argparse.ArgumentParser) -> None:
    token = add_command(
        images,
        common,
        "door-token",
        command=Command("door", "token"),
        text="make a token for the controller's registry door, list them, or end one",
        details="`docker push`, `podman push` and `skopeo copy` log in at the controller's TLS door with any user name and "
        "this token as the password. What they push runs only once a release that names it is signed: `image: {door: "
        "NAME:TAG}` in a spec.",
        examples=(
            "nebh image door-token web                 # push and pull web, for 30 days",
            "nebh image door-token 'team/*' --days 365 --pull-only",
            "nebh image door-token --list",
            "nebh image door-token --end 3fa94c01d2e8",
        ),
    )
    token.add_argument("repository", nargs="?", default="", metavar="NAME", help="repository, or NAME/* for all below")
    token.add_argument("--days", type=int, default=30, metavar="N", help="how long it is good (1 to 366; default 30)")
    token.add_argument("--pull-only", action="store_true", help="it may not push")
    token.add_argument("--list", action="store_true", help="list the tokens")
    token.add_argument("--end", default="", metavar="ID", help="end a token")
    add_command(
        images,
        common,
        "door",
        command=Command("door", "show"),
        text="show what was pushed to the controller's registry door",
        examples=("nebh image door", "nebh image import door:web:1.2"),
    )
