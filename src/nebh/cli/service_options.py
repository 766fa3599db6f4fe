"""Commands that change what runs."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command


def _wait_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="do not wait for the nodes' receipts")
    parser.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts")


def _widen_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes-widen", action="store_true", help="agree to changes that allow more than before")


def _follow_options(parser: argparse.ArgumentParser) -> None:
    _wait_options(parser)
    _widen_option(parser)


def rate_option(parser: argparse.ArgumentParser) -> None:
    """Add how fast an image may be sent."""
    parser.add_argument(
        "--limit-rate", default="", metavar="RATE", help="send the image at no more than this, such as 2M a second"
    )


def _counter(text: str) -> int:
    """Return a number from 0 on. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    deploy = add_command(
        subparsers,
        common,
        "deploy",
        command=Command("deploy", "deploy"),
        text="sign a release of a service and roll it out",
        details="Imports the image, signs policy (where it changed) and release, publishes, rolls out, and ends with "
        "the receipts that prove it, the time each phase took and the command that would undo it.",
        examples=("nebh deploy web.yaml", "nebh deploy web.yaml --prepare   # get ready; `nebh resume web` runs it"),
    )
    deploy.add_argument("spec", metavar="SPEC.yaml")
    deploy.add_argument(
        "--prepare", action="store_true", help="get everything ready on the nodes, change nothing visible"
    )
    rate_option(deploy)
    _follow_options(deploy)
    plan = add_command(
        subparsers,
        common,
        "plan",
        command=Command("deploy", "plan"),
        text="show what a deploy would change, before anything changes",
        examples=("nebh plan web.yaml",),
    )
    plan.add_argument("spec", metavar="SPEC.yaml")
    _add_rollback(subparsers, common)
    _running(subparsers, common)
    _policies(subparsers, common)
    _orders(subparsers, common)


def _add_rollback(subparsers: Any, common: argparse.ArgumentParser) -> None:
    rollback = add_command(
        subparsers,
        common,
        "rollback",
        command=Command("services", "rollback"),
        text="make an older release the running one",
        details="Without --to: the release that was committed before the running one; while a deployment is under way, "
        "back to the release that runs. Only releases inside the rollback window, or pinned, are accepted by nodes.",
        examples=("nebh rollback web", "nebh rollback web --to 3", "nebh rollback db --data restore"),
    )
    rollback.add_argument("service", metavar="SERVICE")
    rollback.add_argument(
        "--data",
        choices=("keep", "restore"),
        default="keep",
        help="keep the data as it is now, where the older release can read it, or bring back what that release last had "
        "(an order signed by your key; what was written since is put aside)",
    )
    rollback.add_argument("--yes", "-y", action="store_true", help="do not ask before data is restored")
    rollback.add_argument("--to", type=_counter, default=0, metavar="N", help="number of the release to go back to")
    _wait_options(rollback)


def _running(subparsers: Any, common: argparse.ArgumentParser) -> None:
    stop = add_command(
        subparsers,
        common,
        "stop",
        command=Command("services", "stop"),
        text="stop a service; it stays stopped until `nebh start` or a deploy",
        details="Signs a policy that says stopped, ends the instances gently, and waits for the nodes' receipts. "
        "Releases, data and names stay.",
        examples=("nebh stop web",),
    )
    start = add_command(
        subparsers,
        common,
        "start",
        command=Command("services", "start"),
        text="start a stopped service with the release that ran last",
        examples=("nebh start web",),
    )
    restart = add_command(
        subparsers,
        common,
        "restart",
        command=Command("services", "restart"),
        text="replace the instances of the running release by new ones, without an outage",
        details="A transaction like a deploy: new instances start, take over, are checked, and the old ones leave.",
        examples=("nebh restart web",),
    )
    scale = add_command(
        subparsers,
        common,
        "scale",
        command=Command("services", "scale"),
        text="change how many replicas run, within what the policy allows",
        examples=("nebh scale web 3",),
    )
    for parser in (stop, start, restart, scale):
        parser.add_argument("service", metavar="SERVICE")
        _follow_options(parser)
    scale.add_argument("replicas", type=_counter, metavar="N", help="replicas over all nodes")


def _policies(subparsers: Any, common: argparse.ArgumentParser) -> None:
    for name, text, details in (
        (
            "pin",
            "keep a release for going back to, however old it gets",
            "Signs a policy that lists it; this widens. Receipts of the nodes that run the service confirm it.",
        ),
        (
            "unpin",
            "let a release age again like any other",
            "Signs a policy without it. Receipts of the nodes that run the service confirm it.",
        ),
    ):
        parser = add_command(
            subparsers,
            common,
            name,
            command=Command("services", name),
            text=text,
            details=f"{text[0].upper()}{text[1:]}. {details}",
            examples=(f"nebh {name} web 3",),
        )
        parser.add_argument("service", metavar="SERVICE")
        parser.add_argument("counter", type=_counter, metavar="N", help="number of the release")
        _widen_option(parser)


def _orders(subparsers: Any, common: argparse.ArgumentParser) -> None:
    rm = add_command(
        subparsers,
        common,
        "rm",
        command=Command("orders", "rm"),
        text="remove a service from its nodes and from what is signed; its data stays",
        details="Sends the nodes an order signed by your key, waits until they confirm, then signs policy and releases "
        "away. Until the nodes confirm nothing is unsigned.",
        examples=("nebh rm web", "nebh rm web --yes   # in scripts"),
    )
    rm.add_argument("service", metavar="SERVICE")
    rm.add_argument("--yes", "-y", action="store_true", help="do not ask")
    rm.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts")
    _widen_option(rm)
    for name, text, details in (
        (
            "abort",
            "end a deployment that is under way; what ran before runs on",
            (
                "Sends the nodes an order signed by your key: before the cut-over the new release is dropped, after it "
                "the nodes go back to the release that ran before."
            ),
        ),
        (
            "resume",
            "let a prepared release run, or keep one that is held",
            (
                "Sends the nodes an order signed by your key: a release of `nebh deploy --prepare` is made to run; one "
                "whose checks failed, and that its spec holds (`on_failure: hold`), is kept."
            ),
        ),
    ):
        parser = add_command(
            subparsers,
            common,
            name,
            command=Command("orders", name),
            text=text,
            details=details,
            examples=(f"nebh {name} web",),
        )
        parser.add_argument("service", metavar="SERVICE")
        _wait_options(parser)
