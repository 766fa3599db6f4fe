"""Rendered files, and where each of their lines comes from."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.errors import Problem


@dataclass(frozen=True, kw_only=True, order=True)
class Use:
    """A value that stands in a line, or decided that the line is there. key: dotted, items of lists by number; version:
    of its layer, 0 for `spec`, `default` and `nebh` (what the node's signed record says)."""

    key: str
    layer: str
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class LineOrigin:
    """Where a line comes from: the template's name and line; the values that stand in it; those that decided whether,
    or how often, it is there."""

    template: str
    line: int
    values: tuple[Use, ...] = ()
    conditions: tuple[Use, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RenderedFile:
    """A file as a node gets it. lines: one for each line of the text where origins were asked for, else none."""

    path: str
    text: str
    lines: tuple[LineOrigin, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeRendering:
    """All files of a service on one node, or everything that is wrong with them."""

    node: str
    files: tuple[RenderedFile, ...] = ()
    problems: tuple[Problem, ...] = ()
