"""Commands about layers of configuration."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family

_LAYER = "cluster, group/G, node/N, service/S, service/S/group/G, service/S/node/N, machine/T or template/T"


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    config = add_family(
        subparsers,
        "config",
        text="show, change and explain the values that files of services are rendered from",
        details="Values stand in layers: cluster < group < node < service < service on a group < service on a node. Each "
        "layer is signed and numbered; a change makes one release for each service whose rendered files change.",
    )
    _get(config, common)
    _set(config, common)
    _edit(config, common)
    _import(config, common)
    _diff(config, common)
    _history(config, common)
    _explain(config, common)


def _layer_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("layer", metavar="LAYER", help=_LAYER)


def _change_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", action="store_true", help="show what would change, sign nothing")
    parser.add_argument(
        "--no-release", action="store_true", help="sign the layer alone; each service takes it with its next deploy"
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="why, for `nebh config history`")
    parser.add_argument("--detach", action="store_true", help="do not wait for the nodes' receipts")
    parser.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="how long to wait for receipts")
    parser.add_argument("--yes-widen", action="store_true", help="agree to changes that allow more than before")


def _get(config: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        config,
        common,
        "get",
        command=Command("config", "get"),
        text="print what a layer itself says",
        details="What a service gets on a node, after all layers met, is what `nebh config explain` shows.",
        examples=("nebh config get cluster", "nebh config get group/front log.level", "nebh config get cluster --json"),
    )
    _layer_argument(parser)
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="one key of it, such as log.level")
    parser.add_argument("--version", type=int, default=0, metavar="N", help="an earlier version (default: the newest)")


def _set(config: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        config,
        common,
        "set",
        command=Command("config", "change"),
        text="set keys of a layer, and release what changes by it",
        details="A value of digits is a number, true and false are truths, [..] and {..} are lists and maps; --text takes "
        "all as text. Signs the layer's next version and one release for each running service whose files change, and "
        "rolls them out one after another.",
        examples=(
            "nebh config set cluster log.level=info ntp='[a.example, b.example]'",
            "nebh config set group/front log.level=debug --plan",
            "nebh config set node/node1 upstreams='[{name: db, port: 6432}]' --merge 'by name'",
            "nebh config set service/web/node/node1 --delete proxy",
            "nebh config set cluster --group-order eu,front",
        ),
    )
    _layer_argument(parser)
    parser.add_argument("pairs", nargs="*", metavar="KEY=VALUE", help="such as log.level=debug")
    parser.add_argument("--text", action="store_true", help="take every value as text")
    parser.add_argument("--unset", action="append", default=[], metavar="KEY", help="say nothing of it here any more")
    parser.add_argument(
        "--delete", action="append", default=[], metavar="KEY", help="take away what lower layers say of it"
    )
    parser.add_argument(
        "--merge", default="", metavar="HOW", help="how these keys meet lower ones: replace, append, prepend, 'by NAME'"
    )
    parser.add_argument("--extends", default=None, metavar="T,T", help="the templates below the layer, lowest first")
    parser.add_argument(
        "--group-order", default=None, metavar="G,G", help="of `cluster`: groups that may contradict, the last one wins"
    )
    _change_options(parser)


def _edit(config: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        config,
        common,
        "edit",
        command=Command("config", "edit"),
        text="open a layer in your editor (VISUAL, EDITOR)",
        examples=("nebh config edit group/front", "nebh config edit template/postgres --no-release"),
    )
    _layer_argument(parser)
    _change_options(parser)


def _import(config: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        config,
        common,
        "import",
        command=Command("config", "import_files"),
        text="take values from .env, INI, TOML, JSON or YAML files, or from Ansible's group_vars and host_vars",
        details="Keys of the files are added to the layer or take the place of its own. A folder is Ansible's: "
        "group_vars/all becomes cluster, group_vars/G group/G, host_vars/N node/N.",
        examples=(
            "nebh config import app.env --into service/web",
            "nebh config import settings.toml --into cluster --plan",
            "nebh config import ./ansible --no-release",
        ),
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="files, - for standard input, or one Ansible folder")
    parser.add_argument("--into", default="", metavar="LAYER", help=_LAYER)
    parser.add_argument(
        "--format", default="", choices=("env", "ini", "toml", "json", "yaml"), help="where the name does not say it"
    )
    _change_options(parser)


def _diff(config: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        config,
        common,
        "diff",
        command=Command("config", "diff"),
        text="show what differs between two versions of a layer",
        examples=("nebh config diff cluster", "nebh config diff cluster --from 3 --to 7"),
    )
    _layer_argument(parser)
    parser.add_argument("--from", dest="since", type=int, default=0, metavar="N", help="default: the one before --to")
    parser.add_argument("--to", type=int, default=0, metavar="N", help="default: the newest")


def _history(config: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        config,
        common,
        "history",
        command=Command("config", "history"),
        text="list all layers, or the versions of one (the last 20 are kept)",
        examples=("nebh config history", "nebh config history group/front --json"),
    )
    parser.add_argument("layer", nargs="?", default="", metavar="LAYER", help=_LAYER)


def _explain(config: Any, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        config,
        common,
        "explain",
        command=Command("config_explain", "explain"),
        text="show which layer and version gave each value of a service, or each line of a file, and what it overrode",
        examples=(
            "nebh config explain web",
            "nebh config explain web log.level --node node2",
            "nebh config explain web --file /etc/app/app.conf",
            "nebh config explain web --release 3 --json",
        ),
    )
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="a key, or what stands above several")
    parser.add_argument("--node", default="", metavar="NODE", help="on this node (default: the first that may run it)")
    parser.add_argument("--file", default="", metavar="PATH", help="every line of this file")
    parser.add_argument("--release", type=int, default=0, metavar="N", help="of this release (default: the newest)")
