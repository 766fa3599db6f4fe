"""Nodes x shapes -> values with places; every problem is collected, none is raised."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, assert_never

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from nebh.model.errors import BadInput, Problem
from nebh.model.quantities import parse_duration, parse_size, render_duration, render_size
from nebh.spec.shape import (
    Choice,
    Cores,
    Duration,
    Either,
    Field,
    Flag,
    Free,
    Listing,
    Section,
    Shape,
    Size,
    Table,
    Text,
    Whole,
)

_DECIMAL = re.compile(r"(0|[1-9][0-9]*)\Z")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?\Z")
_CORES = re.compile(r"(\d{1,4})(?:\.(\d{1,3}))?\Z")
_ANYTHING = Text(expects="a value", numbers=True, longest=65_536)
FOREIGN = {
    "command": "argv",
    "cmd": "argv",
    "entrypoint": "argv",
    "args": "argv",
    "environment": "env",
    "depends_on": "needs",
    "healthcheck": "health",
    "mem_limit": "limits.memory",
    "cpus": "limits.cpu",
    "resources": "limits",
    "expose": "ports",
    "scale": "replicas",
    "deploy": "update",
    "stop_signal": "stop.signal",
    "stop_grace_period": "stop.grace",
}


@dataclass(frozen=True, kw_only=True)
class Value:
    """What stands at one place. data: str, int, bool, dict[str, Value] or list[Value]; line and column from 1."""

    data: Any
    line: int
    column: int
    path: str

    def get(self, key: str) -> Value | None:
        """Return the value under `key` of a section or table."""
        found: Value | None = self.data.get(key)
        return found


class Reader:
    """Reads one file; `problems` grows."""

    def __init__(self, *, file: str, root: Section) -> None:
        self.file = file
        self.root = root
        self.problems: list[Problem] = []
        self._said: set[Problem] = set()

    def read(self, node: Node, shape: Shape, path: str) -> Value | None:
        """Return the value, or None when a problem made it useless."""
        match shape:
            case Section():
                return self._section(node, shape, path)
            case Table():
                return self._table(node, shape, path)
            case Listing():
                return self._listing(node, shape, path)
            case Free():
                return self._free(node, path)
            case Either():
                short = isinstance(node, ScalarNode)
                return self.read(node, shape.short if short else shape.long, path)
            case Text() | Whole() | Flag() | Choice() | Size() | Duration() | Cores():
                return self._scalar(node, shape, path)
            case _:
                assert_never(shape)

    def complain(self, place: Node | Value, path: str, message: str, hint: str = "") -> None:
        """Add a problem at a node or value."""
        if isinstance(place, Value):
            line, column = place.line, place.column
        else:
            line, column = place.start_mark.line + 1, place.start_mark.column + 1
        found = Problem(file=self.file, line=line, column=column, path=path, message=message, hint=hint)
        if found not in self._said:
            self._said.add(found)
            self.problems.append(found)

    def _section(self, node: Node, shape: Section, path: str) -> Value | None:
        pairs = self._pairs(node, path, shape.instead)
        if pairs is None:
            return None
        data: dict[str, Value] = {}
        for key, (place, item) in pairs.items():
            field = shape.find(key)
            where = f"{path}.{key}" if path else key
            if field is None:
                hint = unknown_hint(key, section=shape, root=self.root)
                self.complain(place, where, f"unknown field `{key}`", hint)
                continue
            value = self.read(item, field.shape, where)
            if value is not None:
                data[key] = value
        self._missing(node, shape, path, set(pairs))
        return _value(node, data, path)

    def _missing(self, node: Node, shape: Section, path: str, present: set[str]) -> None:
        for field in shape.fields:
            if field.required and field.key not in present:
                where = f"{path}.{field.key}" if path else field.key
                self.complain(node, where, "it is missing", field.hint)
        chosen = [key for key in shape.one_of if key in present]
        if shape.one_of and len(chosen) != 1:
            words = ", ".join(f"`{key}`" for key in shape.one_of)
            said = "none of them is there" if not chosen else f"{' and '.join(chosen)} are both there"
            self.complain(node, path, f"exactly one of {words} is needed; {said}")

    def _table(self, node: Node, shape: Table, path: str) -> Value | None:
        pairs = self._pairs(node, path, "write `key: value` lines, indented below it")
        if pairs is None:
            return None
        if len(pairs) > shape.most:
            self.complain(node, path, f"{len(pairs)} entries, at most {shape.most} are allowed")
        data: dict[str, Value] = {}
        for key, (place, item) in pairs.items():
            where = f"{path}.{key}"
            if shape.key.pattern and re.fullmatch(shape.key.pattern, key) is None:
                self.complain(place, where, f"`{key}` is not {shape.key.expects}")
            value = self.read(item, shape.item, where)
            if value is not None:
                data[key] = value
        return _value(node, data, path)

    def _pairs(self, node: Node, path: str, instead: str) -> dict[str, tuple[Node, Node]] | None:
        if not isinstance(node, MappingNode):
            self.complain(node, path, f"a mapping is needed here, not {_kind(node)}", instead)
            return None
        pairs: dict[str, tuple[Node, Node]] = {}
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                self.complain(key, path, "a key must be a plain word")
            elif key.value in pairs:
                first = pairs[key.value][0].start_mark.line + 1
                where = f"{path}.{key.value}" if path else key.value
                self.complain(key, where, f"`{key.value}` stands twice, first in line {first}", "remove one of them")
            else:
                pairs[key.value] = (key, item)
        return pairs

    def _listing(self, node: Node, shape: Listing, path: str) -> Value | None:
        if not isinstance(node, SequenceNode):
            self.complain(node, path, f"a list is needed here, not {_kind(node)}", shape.instead)
            return None
        if not shape.least <= len(node.value) <= shape.most:
            self.complain(node, path, f"{len(node.value)} items; {shape.least} to {shape.most} are allowed")
        items: list[Value] = []
        for index, one in enumerate(node.value[: shape.most]):
            value = self.read(one, shape.item, f"{path}[{index}]")
            if value is None:
                continue
            if shape.unique and any(other.data == value.data for other in items):
                self.complain(one, value.path, f"`{value.data}` stands twice", "remove one of them")
            items.append(value)
        return _value(node, items, path)

    def _free(self, node: Node, path: str) -> Value | None:
        """A value whose kind YAML says; `data` is plain."""
        data: Any = None
        if isinstance(node, MappingNode):
            data = {}
            for key, (_, item) in (self._pairs(node, path, "") or {}).items():
                one = self._free(item, f"{path}.{key}")
                data[key] = one.data if one is not None else ""
        elif isinstance(node, SequenceNode):
            below = [self._free(one, f"{path}[{number}]") for number, one in enumerate(node.value)]
            data = [one.data for one in below if one is not None]
        else:
            assert isinstance(node, ScalarNode)
            raw, tag, plain = str(node.value), str(node.tag).rpartition(":")[2], node.style is None
            if plain and tag == "int" and _DECIMAL.match(raw.removeprefix("-")) and len(raw) < 16:
                return _value(node, int(raw), path)
            if plain and raw in {"true", "false"}:
                return _value(node, raw == "true", path)
            return self._scalar(node, _ANYTHING, path)
        return _value(node, data, path)

    def _scalar(self, node: Node, shape: Shape, path: str) -> Value | None:
        if not isinstance(node, ScalarNode):
            self.complain(node, path, f"{_wanted(shape)} is needed here, not {_kind(node)}")
            return None
        raw, tag, plain = str(node.value), str(node.tag).rpartition(":")[2], node.style is None
        if tag == "null" and plain:
            self.complain(node, path, f"it is empty; {_wanted(shape)} is needed", "write a value or remove the key")
            return None
        data, message, hint = _convert(raw, tag, shape, plain=plain)
        if message:
            self.complain(node, path, message, hint)
            return None
        return _value(node, data, path)


def unknown_hint(key: str, *, section: Section, root: Section) -> str:
    """Return what was probably meant by an unknown key: a neighbour, the same key elsewhere, or another tool's word."""
    near = difflib.get_close_matches(key, [field.key for field in section.fields], n=1, cutoff=0.65)
    if near:
        return f"did you mean `{near[0]}`?"
    elsewhere = _paths_of(key, root, "")
    if elsewhere:
        return f"did you mean `{elsewhere[0]}`?"
    if key in FOREIGN:
        return f"did you mean `{FOREIGN[key]}`?"
    return "known here: " + ", ".join(field.key for field in section.fields)


def _paths_of(key: str, section: Section, path: str) -> list[str]:
    found: list[str] = []
    for field in section.fields:
        where = f"{path}.{field.key}" if path else field.key
        if field.key == key:
            found.append(where)
        inner: Shape = field.shape.long if isinstance(field.shape, Either) else field.shape
        if isinstance(inner, Section):
            found += _paths_of(key, inner, where)
    return found


def _value(node: Node, data: object, path: str) -> Value:
    return Value(data=data, line=node.start_mark.line + 1, column=node.start_mark.column + 1, path=path)


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return f"`{node.value}`" if node.value else "nothing"


def _wanted(shape: Shape) -> str:
    match shape:
        case Text():
            return shape.expects
        case Whole():
            return f"a whole number from {shape.low} to {shape.high}"
        case Flag():
            return "true or false"
        case Choice():
            return "one of " + ", ".join(shape.values)
        case Size():
            return "a size such as 64M"
        case Duration():
            return "a duration such as 10s"
        case Cores():
            return "a number of cores such as 0.5"
        case Listing():
            return "a list"
        case Table() | Section() | Either():
            return "a mapping"
        case Free():
            return "a value"
        case _:
            assert_never(shape)


def _convert(raw: str, tag: str, shape: Shape, *, plain: bool) -> tuple[str | int | bool, str, str]:
    """Return (value, "", "") or (anything, problem, hint). `tag`: what YAML 1.1 takes the text for."""
    match shape:
        case Text():
            return _convert_text(raw, tag, shape, plain=plain)
        case Whole():
            return _convert_whole(raw, tag, shape, plain=plain)
        case Flag():
            hint = "write true or false, without quotes"
            return (
                raw == "true",
                "" if plain and raw in {"true", "false"} else f"`{raw}` is neither true nor false",
                hint,
            )
        case Choice():
            near = difflib.get_close_matches(
                raw.lower().removeprefix("sig"), [one.lower() for one in shape.values], n=1
            )
            meant = next((one for one in shape.values if near and one.lower() == near[0]), "")
            message = "" if raw in shape.values else f"`{raw}` is not {_wanted(shape)}"
            return raw, message, f"did you mean `{meant}`?" if meant else ""
        case Size():
            return _convert_quantity(raw, shape)
        case Duration():
            return _convert_quantity(raw, shape)
        case Cores():
            found = _CORES.match(raw)
            value = int(found[1]) * 1000 + int((found[2] or "").ljust(3, "0")) if found else 0
            return value, "" if value else f"`{raw}` is not a number of cores", "write 0.5 for half a core, 2 for two"
    raise AssertionError(shape)


def _convert_text(raw: str, tag: str, shape: Text, *, plain: bool) -> tuple[str, str, str]:
    quoted = f"if you mean these characters, quote them: '{raw}'"
    if plain and tag in {"int", "float"} and not (shape.numbers and _NUMBER.match(raw)):
        if ":" in raw:
            return raw, f"YAML reads `{raw}` as a number in base 60", quoted
        if _DECIMAL.match(raw) is None and tag == "int":
            return raw, f"YAML reads `{raw}` as a number in another base", quoted
        return raw, f"`{raw}` is a number; {shape.expects} is needed", quoted
    if plain and tag == "bool":
        return raw, f"YAML reads `{raw}` as true or false; {shape.expects} is needed", quoted
    if plain and tag not in {"str", "int", "float"}:
        return raw, f"YAML reads `{raw}` as a {tag}; {shape.expects} is needed", quoted
    if "\0" in raw or len(raw) > shape.longest:
        return raw, f"a text of at most {shape.longest} characters without NUL is needed", ""
    if shape.pattern and re.fullmatch(shape.pattern, raw) is None:
        return raw, f"`{raw}` is not {shape.expects}", ""
    return raw, "", ""


def _convert_whole(raw: str, tag: str, shape: Whole, *, plain: bool) -> tuple[int, str, str]:
    wanted = _wanted(shape)
    if plain and _DECIMAL.match(raw) and len(raw) < 19:
        number = int(raw)
        return number, "" if shape.low <= number <= shape.high else f"{raw} is not {wanted}", ""
    if not plain and _DECIMAL.match(raw):
        return 0, f"'{raw}' is text; {wanted} is needed", "write it without quotes"
    if ":" in raw:
        right = raw.rpartition(":")[2]
        said = f"YAML reads `{raw}` as a number in base 60" if tag == "int" else f"`{raw}` is not one number"
        return 0, f"{said}; {wanted} is needed", f"write `{right}` alone"
    if tag == "int" and raw.startswith("0"):
        return (
            0,
            f"YAML reads `{raw}` as a number in another base; {wanted} is needed",
            "write it without the leading 0",
        )
    return 0, f"`{raw}` is not {wanted}", "write digits only"


def _convert_quantity(raw: str, shape: Size | Duration) -> tuple[int, str, str]:
    if raw.startswith("0") and len(raw) > 1 and raw[1].isdigit():
        return 0, f"`{raw}` starts with 0", "write it without the leading 0"
    try:
        if isinstance(shape, Size):
            number = parse_size(int(raw) if _DECIMAL.match(raw) else raw)
            bounds = f"{render_size(shape.low)} and {render_size(shape.high)}"
        else:
            number = parse_duration(0 if raw == "0" else raw)
            bounds = f"{render_duration(shape.low)} and {render_duration(shape.high)}"
    except BadInput as error:
        return 0, str(error), error.hint
    if shape.low <= number <= shape.high:
        return number, "", ""
    hint = f"did you mean {raw}M?" if isinstance(shape, Size) and _DECIMAL.match(raw) else ""
    return 0, f"`{raw}` is not between {bounds}", hint


def walk_fields(section: Section, path: str = "") -> tuple[tuple[str, Field], ...]:
    """Return every field below `section` with its path; items of lists and tables are written `[]` and `<name>`."""
    found: list[tuple[str, Field]] = []
    for field in section.fields:
        where = f"{path}.{field.key}" if path else field.key
        found.append((where, field))
        inner: Shape = field.shape
        if isinstance(inner, Either):
            inner = inner.long
        if isinstance(inner, Listing):
            where, inner = where + "[]", inner.item
        elif isinstance(inner, Table):
            where, inner = where + ".<name>", inner.item
            inner = inner.long if isinstance(inner, Either) else inner
        if isinstance(inner, Section):
            found += walk_fields(inner, where)
    return tuple(found)
