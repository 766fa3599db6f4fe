"""Commands that look and change nothing."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    _glance(subparsers, common)
    _happened(subparsers, common)
    _explain(subparsers, common)


def _glance(subparsers: Any, common: argparse.ArgumentParser) -> None:
    status = add_command(
        subparsers,
        common,
        "status",
        command=Command("show", "status"),
        text="show nodes, services, what is under way and what to look at soon",
        details="Shows nodes and services as they report themselves, warns 30 days before anything signed expires, and "
        "names the newest alarms. With a service: that one.",
        examples=("nebh status", "nebh status web", "nebh status --json"),
    )
    status.add_argument("service", nargs="?", default="", metavar="SERVICE")
    releases = add_command(
        subparsers,
        common,
        "releases",
        command=Command("show", "releases"),
        text="list a service's signed releases, newest first",
        details="* marks the running one. State: committed, rolled-back, refused or failed, as nodes' receipts told the "
        "controller; pinned, as the policy says.",
        examples=("nebh releases web",),
    )
    releases.add_argument("service", metavar="SERVICE")
    add_command(
        subparsers,
        common,
        "version",
        command=Command("show", "version"),
        text="show the versions of this program, the controller and the nodes",
        examples=("nebh version", "nebh version --json"),
    )
    completion = add_command(
        subparsers,
        common,
        "completion",
        command=Command("completion", "completion"),
        text="print a completion script for your shell",
        examples=('eval "$(nebh completion bash)"', "nebh completion fish | source"),
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def _happened(subparsers: Any, common: argparse.ArgumentParser) -> None:
    events = add_command(
        subparsers,
        common,
        "events",
        command=Command("events", "events"),
        text="show what happened: the newest 50 events, oldest first",
        examples=("nebh events", "nebh events --service web --follow"),
    )
    events.add_argument("--service", default="", metavar="SERVICE", help="only of this service")
    events.add_argument("--follow", "-f", action="store_true", help="go on until Ctrl-C")
    history = add_command(
        subparsers,
        common,
        "history",
        command=Command("events", "history"),
        text="show who asked for what, newest first",
        details="Every publication, deployment and order, with the beginning of the operator key that asked.",
        examples=("nebh history", "nebh history web --limit 100"),
    )
    history.add_argument("service", nargs="?", default="", metavar="SERVICE")
    history.add_argument("--limit", type=int, default=50, metavar="N", help="how many entries (1-200)")
    logs = add_command(
        subparsers,
        common,
        "logs",
        command=Command("logs", "logs"),
        text="show what a service wrote",
        details="Control characters are shown escaped, unless --raw is given.",
        examples=("nebh logs web", "nebh logs web -f --tail 20", "nebh logs web --instance web-3-0-1"),
    )
    logs.add_argument("service", metavar="SERVICE")
    logs.add_argument("--follow", "-f", action="store_true", help="go on until Ctrl-C")
    logs.add_argument("--instance", default="", metavar="ID", help="only of this instance, also one that is gone")
    logs.add_argument("--node", default="", metavar="NODE", help="ask this node (default: one that runs it)")
    logs.add_argument("--tail", type=int, default=100, metavar="N", help="begin N lines before the end; 0 = all")
    logs.add_argument("--raw", action="store_true", help="the text as it is, nothing before it, nothing escaped")


def _explain(subparsers: Any, common: argparse.ArgumentParser) -> None:
    why = add_command(
        subparsers,
        common,
        "why",
        command=Command("why", "why"),
        text="explain a refusal, a roll-back or a restart",
        details="Shows the last command's receipts that say no, the newest warnings and alarms with what to do, and how "
        "instances ended.",
        examples=("nebh why web",),
    )
    why.add_argument("service", metavar="SERVICE")
    inspect = add_command(
        subparsers,
        common,
        "inspect",
        command=Command("why", "inspect"),
        text="show everything that is known of a service",
        details="Policy and releases as signed and verified here, what nodes report, the last receipts and events.",
        examples=("nebh inspect web", "nebh inspect web --json"),
    )
    inspect.add_argument("service", metavar="SERVICE")
