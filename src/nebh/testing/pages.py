"""Command blocks of documentation pages, so that tests run them as written.

A block is fenced as `sh` and stands below `<!-- run -->` or `<!-- skip: reason -->`; a `text` block right after it is
what the output holds: every line in this order, `…` for what differs each time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nebh.model.errors import BadInput

_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?:(?P<run>run)|skip: (?P<reason>[^>]+?)) -->\n\Z")


@dataclass(frozen=True, kw_only=True)
class Block:
    """line: of the opening fence, from 1; skip: why it is not run, "" = it is; expected: patterns of output lines."""

    line: int
    commands: str
    skip: str = ""
    expected: tuple[str, ...] = ()


def read_blocks(page: str) -> tuple[Block, ...]:
    """Return the command blocks of a page in order. Raises BadInput for one without a mark."""
    found: list[Block] = []
    after = -1
    for fence in _FENCE.finditer(page):
        line = page.count("\n", 0, fence.start()) + 1
        if fence["kind"] == "text" and found and not page[after : fence.start()].strip():
            found[-1] = Block(
                line=found[-1].line,
                commands=found[-1].commands,
                skip=found[-1].skip,
                expected=tuple(map(_pattern, filter(None, fence["body"].splitlines()))),
            )
        elif fence["kind"] == "sh":
            mark = _MARK.search(page[: fence.start()])
            if mark is None:
                raise BadInput(f"cannot read the commands at line {line}: they have no mark", hint="<!-- run -->")
            found.append(Block(line=line, commands=fence["body"], skip=mark["reason"] or ""))
            after = fence.end()
    return tuple(found)


def _pattern(line: str) -> str:
    return r"\s+".join(".*".join(map(re.escape, word.split("…"))) for word in line.split())


def find_missing(expected: tuple[str, ...], output: str) -> str:
    """Return the first pattern that no line of the output, after the one before, holds; "" when all do."""
    lines = iter(output.splitlines())
    for pattern in expected:
        if not any(re.search(pattern, line) for line in lines):
            return pattern
    return ""
