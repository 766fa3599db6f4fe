"""Write the generated pages of docs/: `python -m nebh.testing.docs` in a checkout, `make docs`."""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nebh.model.instance import InstanceFacts

HEAD = """# Command line reference

Generated from the code by `make docs`; a test fails when it is out of date.
"""


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield `parser` and all its subcommands, each with its full name in `prog`, in the order of their definition."""
    yield parser
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to walk its tree
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            seen: set[int] = set()
            texts = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001 - as above
            for name, child in action.choices.items():
                if id(child) not in seen:
                    seen.add(id(child))
                    text = texts.get(name, "")
                    child.description = child.description or f"{text[:1].upper()}{text[1:]}."
                    yield from commands(child)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001 - as above
        if isinstance(action, (argparse._SubParsersAction, argparse._HelpAction)):  # noqa: SLF001 - as above
            continue
        if action.help == argparse.SUPPRESS:
            continue
        name = str(action.metavar or action.dest.upper())
        names = [f"{option} {name}" if action.nargs != 0 else option for option in action.option_strings] or [name]
        text = " ".join((action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%").split())
        yield f"- `{', '.join(names)}`" + (f": {text}" if text else "")


def render_command(parser: argparse.ArgumentParser) -> str:
    """Return the section of one command: heading, usage, promise, arguments."""
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    parts = [f"## {parser.prog}\n", f"```\n{usage}\n```\n"]
    if text := (parser.description or "").strip():
        parts.append(f"{text}\n")
    if lines := list(_options(parser)):
        parts.append("\n".join(lines) + "\n")
    if text := (parser.epilog or "").strip().removeprefix("examples:"):
        parts.append(f"```sh\n{textwrap.dedent(text.strip(chr(10)))}\n```\n")
    return "\n".join(parts)


def render_reference(*parsers: argparse.ArgumentParser) -> str:
    """Return docs/cli.md for the given programs."""
    return "\n".join([HEAD, *(render_command(command) for parser in parsers for command in commands(parser))])


def command_line() -> argparse.ArgumentParser:
    """Return the parser of `nebh`."""
    from nebh.cli.main import build_parser

    return build_parser()


def programs() -> tuple[argparse.ArgumentParser, ...]:
    """Return the parsers of the programs that people run."""
    from nebh.executor.admin import build_parser

    return command_line(), build_parser()


def render_api() -> str:
    """Return docs/api.md, written from the routes of a controller that nobody talks to."""
    from nebh.api.app import make_app
    from nebh.api.reference import render_reference as render_routes
    from nebh.controller.core import Core
    from nebh.signing.controller_tools import ControllerTools
    from nebh.signing.statements import Seed
    from nebh.state.migrate import migrate

    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        migrate(state / "controller.db")
        key = Seed(b"c" * 32)
        tools = ControllerTools(key=key, cluster_id=None, now=lambda: 0)
        core = Core(state=state, signer=key, tools=tools, now=lambda: 0, version="test")
        try:
            return render_routes(make_app(core))
        finally:
            core.close()
            core.database.close()


SAMPLE_FACTS = InstanceFacts(
    instance="web-7-0-1",
    replica=0,
    uid_base=0x70000000,
    root="/var/lib/nebh/bundles/web-7-0-1/rootfs",
    netns="/proc/4711/fd/9",
    cgroup="/nebh/web-7-0-1",
    cgroup_v2=True,
    hostname="web-0",
    address4="10.90.0.2",
    address6="fd00::2",
    etc_files={"hosts": "/var/lib/nebh/bundles/web-7-0-1/etc/hosts"},
)


def render_containers() -> str:
    """Return docs/security-containers.md, read from what a node with AppArmor would write."""
    from nebh.drivers.containers.apparmor import NAME
    from nebh.drivers.containers.oci_config import render_config
    from nebh.drivers.networks.nft_rules import build_table, render_table
    from nebh.model.network import NetworkRules
    from nebh.model.service import Limits
    from nebh.testing.container_controls import nebh_controls, render_page
    from nebh.testing.container_rig import sample_policy, sample_release

    policy = sample_policy(limits=Limits(memory=64 << 20))
    facts = replace(SAMPLE_FACTS, apparmor=NAME)
    config = json.loads(render_config(policy, sample_release("/bin/app"), facts))
    ruleset = render_table(build_table(NetworkRules(subnets=("10.77.0.0/20", "fd00:77::/64"))))
    return render_page(nebh_controls(config, ruleset))


def render_pages() -> dict[str, str]:
    """Return every generated page by its path in a checkout."""
    from nebh.spec.schema import render_reference as render_specs
    from nebh.testing.bench.page import render_page
    from nebh.testing.bench.sizes import PAGE, fill_page

    performance = render_page()
    pages = {
        "docs/cli.md": render_reference(*programs()),
        "docs/spec.md": render_specs(),
        "docs/api.md": render_api(),
        "docs/security-containers.md": render_containers(),
        str(PAGE): fill_page(PAGE.read_text()),
    }
    return pages | ({"docs/performance.md": performance} if performance else {})


def main() -> None:
    """Write the generated pages below the current folder."""
    for name, text in render_pages().items():
        Path(name).write_text(text)
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
