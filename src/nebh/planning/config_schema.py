"""What a service says its keys must be: types, bounds, defaults. All problems at once, each with the layer to mend."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from nebh.model.config_layer import DEFAULT_LAYER, SCALARS, TYPES, KeyRule, Origin, Part
from nebh.model.errors import Problem
from nebh.planning.config_merge import Branch, Gone, Leaf, Row, Tree, find_tree, to_plain
from nebh.planning.config_values import (
    Path,
    is_key,
    is_strategy,
    join_key,
    kind_of,
    place_of,
    show_value,
    split_key,
    walk_leaves,
)

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?\Z")
LONGEST_MATCHED = 4096


def check_schema(schema: dict[str, KeyRule], *, place: str) -> tuple[Problem, ...]:
    """Return everything wrong with a schema by itself."""
    found: list[Problem] = []

    def complain(key: str, message: str, hint: str = "") -> None:
        found.append(Problem(file=place, line=0, column=0, path=f"schema.{key}", message=message, hint=hint))

    for key, rule in schema.items():
        if not is_key(key):
            complain(key[:80], "it cannot be a key")
        above = [split_key(key)[:n] for n in range(1, len(split_key(key)))]
        if any(join_key(one) in schema for one in above):
            complain(key, "a key above it is declared too", "declare the map, or its keys one by one")
        if rule.type not in TYPES:
            complain(key, f"`{rule.type}` is not one of {', '.join(TYPES)}")
            continue
        if rule.items and (rule.type != "list" or rule.items not in (*SCALARS, "map")):
            complain(key, f"`items: {rule.items}` does not go with `type: {rule.type}`")
        if rule.merge and (rule.merge == "delete" or not is_strategy(rule.merge)):
            complain(key, f"`merge: {rule.merge}` is not replace, append, prepend or `by NAME`")
        if (rule.low is not None or rule.high is not None) and rule.type not in {"int", "number", "port"}:
            complain(key, "only numbers have low and high")
        try:
            re.compile(rule.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            complain(key, f"`{rule.pattern}` is no regular expression: {error}")
            continue
        if rule.default is not None:
            if rule.required:
                complain(key, "it is required and has a default", "keep one of them")
            for message, _ in _judge(rule, rule.default):
                complain(key, f"its default: {message}")
    return tuple(found)


def fill_defaults(tree: Branch, schema: dict[str, KeyRule]) -> Branch:
    """Return `tree` with the defaults of keys that no layer gives, of origin `default`."""
    for key, rule in schema.items():
        if rule.default is not None:
            tree = _fill(tree, split_key(key), rule.default)
    return tree


def _fill(tree: Branch, path: Path, value: Any) -> Branch:
    below = tree.children.get(path[0])
    origin = Origin(layer=DEFAULT_LAYER)
    if len(path) == 1:
        if below is not None and not isinstance(below, Gone):
            return tree
        past = () if below is None else below.overrode
        made: Tree = _default(value, origin) if below is None else _after(_default(value, origin), past)
    else:
        start = below if isinstance(below, Branch) else None
        if below is not None and start is None and not isinstance(below, Gone):
            return tree
        made = _fill(start or Branch(children={}, origin=origin), path[1:], value)
    return Branch(children={**tree.children, path[0]: made}, origin=tree.origin, overrode=tree.overrode)


def _after(tree: Tree, past: tuple[Any, ...]) -> Tree:
    return Leaf(value=tree.value, origin=tree.origin, overrode=past) if isinstance(tree, Leaf) else tree


def _default(value: Any, origin: Origin) -> Tree:
    if isinstance(value, dict):
        return Branch(children={key: _default(one, origin) for key, one in value.items()}, origin=origin)
    if isinstance(value, (list, tuple)):
        return Row(items=tuple(_default(one, origin) for one in value), origin=origin)
    return Leaf(value=value, origin=origin)


def check_tree(tree: Branch, schema: dict[str, KeyRule], *, what: str) -> tuple[Problem, ...]:
    """Return every key that is not as the schema says. what: for what is missing (`web on node1`)."""
    found: list[Problem] = []
    for key, rule in schema.items():
        one = find_tree(tree, split_key(key))
        if one is None or isinstance(one, Gone):
            if rule.required:
                gone = f"{one.origin} deletes it" if isinstance(one, Gone) else "no layer gives it"
                hint = f"`nebh config set {key}=...`, or give it a default"
                place = f"config of {what}"
                message = f"it is required, and {gone}"
                found.append(Problem(file=place, line=0, column=0, path=key, message=message, hint=hint))
            continue
        for message, hint in _judge(rule, to_plain(one)):
            place = f"layer {one.origin}" if one.origin.version else f"the {one.origin.layer}"
            found.append(Problem(file=place, line=0, column=0, path=key, message=message, hint=hint))
    return tuple(found)


def _judge(rule: KeyRule, value: Any) -> Iterator[tuple[str, str]]:
    """Yield (problem, hint) of one value."""
    message, hint = _judge_type(rule.type, value)
    if message:
        yield message, hint
        return
    if rule.type == "list" and rule.items:
        for number, one in enumerate(value):
            message, hint = _judge_type(rule.items, one)
            if message:
                yield f"item {number}: {message}", hint
    if rule.enum and value not in rule.enum:
        allowed = [show_value(one) for one in rule.enum]
        near = difflib.get_close_matches(str(value), allowed, n=1)
        yield f"`{show_value(value)}` is not one of {', '.join(allowed)}", f"did you mean `{near[0]}`?" if near else ""
    if rule.pattern:
        for one in value if rule.type == "list" else (value,):
            text = show_value(one)
            if len(text) > LONGEST_MATCHED or re.fullmatch(rule.pattern, text) is None:
                yield f"`{text[:80]}` does not match {rule.pattern}", ""
    if rule.type in {"int", "port", "number"}:
        size = float(value)
        if rule.low is not None and size < rule.low:
            yield f"{value} is below {rule.low}", ""
        if rule.high is not None and size > rule.high:
            yield f"{value} is above {rule.high}", ""


def _judge_type(kind: str, value: Any) -> tuple[str, str]:
    hint = ""
    match kind:
        case "text":
            good, wanted, hint = isinstance(value, str), "text", "put it in quotes"
        case "bool":
            good, wanted, hint = isinstance(value, bool), "true or false", "write it without quotes"
        case "int":
            good, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
            hint = "write it without quotes" if isinstance(value, str) and value.isdecimal() else ""
        case "port":
            good, wanted = isinstance(value, int) and not isinstance(value, bool), "a port from 1 to 65535"
            good = good and 1 <= value <= 65535
        case "number":
            plain = isinstance(value, int) and not isinstance(value, bool)
            good, wanted = plain or (isinstance(value, str) and _NUMBER.match(value) is not None), "a number"
        case "list":
            good, wanted = isinstance(value, (list, tuple)), "a list"
        case _:
            good, wanted = isinstance(value, dict), "a map"
    shown = "" if isinstance(value, (dict, list, tuple)) else f" `{show_value(value)[:80]}`"
    return ("", "") if good else (f"{kind_of(value)}{shown} where {wanted} is needed", hint)


def unknown_keys(part: Part, schema: dict[str, KeyRule]) -> tuple[Problem, ...]:
    """Return the keys of a service's own layer that its schema does not name: most are typing errors."""
    found = []
    for path, _ in walk_leaves(part.values):
        if not _covered(path, schema):
            near = difflib.get_close_matches(join_key(path), list(schema), n=1, cutoff=0.6)
            hint = f"did you mean `{near[0]}`?" if near else "declare it in `config.schema`"
            message = "the service's schema does not name it"
            found.append(
                Problem(file=place_of(part), line=0, column=0, path=join_key(path), message=message, hint=hint)
            )
    return tuple(found)


def _covered(path: Path, schema: dict[str, KeyRule]) -> bool:
    return any(join_key(path[:length]) in schema for length in range(1, len(path) + 1))


def trim_part(part: Part, schema: dict[str, KeyRule]) -> Part:
    """Return a part with those values alone that a service with this schema sees. No schema: all of them."""
    if not schema:
        return part
    above = {join_key(split_key(key)[:length]) for key in schema for length in range(1, len(split_key(key)))}
    values = _trim(part.values, (), schema, above)
    merge = {
        key: strategy
        for key, strategy in part.merge.items()
        if (strategy == "delete" and (key in above or _covered(split_key(key), schema)))
        or (strategy != "delete" and _has(values, split_key(key)))
    }
    return Part(layer=part.layer, version=part.version, values=values, merge=merge, extends=part.extends)


def _has(values: Any, path: Path) -> bool:
    for word in path:
        if not isinstance(values, dict) or word not in values:
            return False
        values = values[word]
    return True


def _trim(values: dict[str, Any], path: Path, schema: dict[str, KeyRule], above: set[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        where = join_key((*path, key))
        if where in schema:
            kept[key] = value
        elif where in above:
            # a value where the schema has a map stays: merging says what is wrong with it
            kept[key] = _trim(value, (*path, key), schema, above) if isinstance(value, dict) else value
    return {key: one for key, one in kept.items() if one != {} or (key in values and values[key] == {})}
