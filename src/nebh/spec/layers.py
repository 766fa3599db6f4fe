"""A layer as people write it in a file: `values`, `merge`, `extends`, and for the cluster `group_order`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from nebh.model.errors import SpecErrors
from nebh.model.names import NAME_PATTERN
from nebh.spec.config_fields import CONFIG
from nebh.spec.document import parse_document
from nebh.spec.read import Reader
from nebh.spec.shape import Field, Listing, Section, Text

LAYER = Section(
    fields=(
        *(one for one in CONFIG.fields if one.key != "schema"),
        Field(
            key="group_order",
            shape=Listing(item=Text(expects="the name of a group", pattern=NAME_PATTERN), unique=True),
            doc="Groups whose layers may contradict each other, the last one wins.",
        ),
    )
)


@dataclass(frozen=True, kw_only=True)
class LayerText:
    """What a layer's file says."""

    values: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, str] = field(default_factory=dict)
    extends: tuple[str, ...] = ()
    group_order: tuple[str, ...] = ()


def parse_layer(text: str, *, file: str) -> LayerText:
    """Return what a layer's file says. Raises SpecErrors with every problem, each with its line."""
    if not text.strip():
        return LayerText()
    node, unreadable = parse_document(text, file=file)
    if node is None:
        raise SpecErrors(unreadable)
    reader = Reader(file=file, root=LAYER)
    root = reader.read(node, LAYER, "")
    values = root.get("values") if root is not None else None
    if values is not None and not isinstance(values.data, dict):
        reader.complain(values, values.path, "a mapping is needed here", "write `key: value` lines, indented below it")
    if reader.problems or root is None:
        raise SpecErrors(tuple(sorted(reader.problems, key=lambda one: (one.line, one.column, one.path))))
    merge, extends, order = root.get("merge"), root.get("extends"), root.get("group_order")
    return LayerText(
        values=values.data if values is not None else {},
        merge={key: one.data for key, one in merge.data.items()} if merge is not None else {},
        extends=tuple(one.data for one in extends.data) if extends is not None else (),
        group_order=tuple(one.data for one in order.data) if order is not None else (),
    )


def render_layer(layer: LayerText) -> str:
    """Return a layer as YAML that `parse_layer` reads back to the same."""
    plain: dict[str, Any] = {}
    if layer.extends:
        plain["extends"] = list(layer.extends)
    if layer.group_order:
        plain["group_order"] = list(layer.group_order)
    if layer.merge:
        plain["merge"] = dict(layer.merge)
    plain["values"] = layer.values
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
    return text


def parse_value(text: str) -> Any:
    """Return the value that a word of the command line means: a whole number, true or false, a list or map in JSON or
    YAML's short form, else the text itself."""
    if text[:1] in {"[", "{"}:
        try:
            return parse_layer(f"values: {{value: {text}}}", file="the value").values["value"]
        except SpecErrors:
            return text
    if text in {"true", "false"}:
        return text == "true"
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and len(digits) < 16 and (digits == "0" or not digits.startswith("0")):
        return int(text)
    return text
