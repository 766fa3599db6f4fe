"""Write the generated pages of docs/: `python -m nebh.testing.docs` in a checkout, `make docs`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

HEAD = """# Command line reference

Generated from the code by `make docs`; a test fails when it is out of date.
"""


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield `parser` and all its subcommands, each with its full name in `prog`, in the order of their definition."""
    yield parser
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to walk its tree
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            seen: set[int] = set()
            for child in action.choices.values():
                if id(child) not in seen:
                    seen.add(id(child))
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
    if text := (parser.epilog or "").strip():
        parts.append(f"{text}\n")
    return "\n".join(parts)


def render_reference(*parsers: argparse.ArgumentParser) -> str:
    """Return docs/cli.md for the given programs."""
    return "\n".join([HEAD, *(render_command(command) for parser in parsers for command in commands(parser))])


def command_line() -> argparse.ArgumentParser:
    """Return the parser of `nebh`."""
    from nebh.cli.main import build_parser

    return build_parser()


def main() -> None:
    """Write docs/cli.md and docs/spec.md below the current folder."""
    from nebh.spec.schema import render_reference as render_specs

    for name, text in (("docs/cli.md", render_reference(command_line())), ("docs/spec.md", render_specs())):
        Path(name).write_text(text)
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
