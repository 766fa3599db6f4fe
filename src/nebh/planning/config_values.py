"""Values of configuration: what may stand in a layer, and keys as people write them (`db.pool.size`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nebh.model.config_layer import Part
from nebh.model.errors import Problem

Path = tuple[str, ...]
MAX_DEPTH = 12
MAX_TEXT = 64 * 1024
MAX_VALUES = 20_000
MAX_INTEGER = 2**53
RESERVED = "nebh"
"""A name in templates that is not a key: what is known of the node."""
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}\Z")
_BY = re.compile(r"by [A-Za-z0-9_][A-Za-z0-9_-]{0,63}\Z")
STRATEGIES = ("replace", "append", "prepend", "by NAME", "delete")


def split_key(key: str) -> Path:
    """Return the steps of a dotted key."""
    return tuple(key.split("."))


def join_key(path: Path) -> str:
    """Return a path as a dotted key."""
    return ".".join(path)


def is_key(key: str) -> bool:
    """Tell whether a dotted key may be used: 1 to MAX_DEPTH words of letters, digits, `_` and `-`."""
    words = split_key(key)
    return len(words) <= MAX_DEPTH and all(_KEY.match(one) for one in words)


def is_strategy(text: str) -> bool:
    """Tell whether `text` says how values meet."""
    return text in STRATEGIES[:3] or text == "delete" or _BY.match(text) is not None


def find_value(values: Mapping[str, Any], path: Path) -> Any:
    """Return what stands at a path of nested dicts, None when nothing does."""
    found: Any = values
    for word in path:
        if not isinstance(found, dict) or word not in found:
            return None
        found = found[word]
    return found


def walk_leaves(values: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every value below nested dicts with its path; a list is one value, and so is an empty dict."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from walk_leaves(value, (*path, key))
        else:
            yield (*path, key), value


def put_value(values: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Return a copy of nested dicts with a value at a path; what was no dict on the way gives way."""
    below = values.get(path[0])
    if len(path) == 1:
        return {**values, path[0]: value}
    return {**values, path[0]: put_value(below if isinstance(below, dict) else {}, path[1:], value)}


def drop_value(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a copy of nested dicts without what stands at a path; dicts that this empties go too."""
    if path[0] not in values:
        return dict(values)
    if len(path) > 1 and isinstance(values[path[0]], dict):
        left = drop_value(values[path[0]], path[1:])
        if left or not values[path[0]]:
            return {**values, path[0]: left}
    elif len(path) > 1:
        return dict(values)
    return {key: value for key, value in values.items() if key != path[0]}


def place_of(part: Part) -> str:
    """Return how messages name a part."""
    return "the spec" if part.layer == "spec" else f"layer {part.layer} version {part.version}"


def check_part(part: Part) -> tuple[Problem, ...]:
    """Return everything wrong with a part by itself: keys, kinds of values, strategies. Nothing of other parts."""
    place, found = place_of(part), []

    def complain(key: str, message: str, hint: str = "") -> None:
        found.append(Problem(file=place, line=0, column=0, path=key, message=message, hint=hint))

    count = 0
    for path, message, hint in _look(part.values, ()):
        count += 1
        if message:
            complain(join_key(path), message, hint)
    if count > MAX_VALUES:
        complain("", f"it has {count} values, at most {MAX_VALUES} are allowed")
    if RESERVED in part.values:
        complain(RESERVED, "the name stands for the node in templates", "choose another name")
    for key, strategy in part.merge.items():
        value = find_value(part.values, split_key(key))
        if not is_key(key):
            complain(key[:80], "it cannot be a key")
        elif not is_strategy(strategy):
            complain(key, f"`{strategy}` is not one of {', '.join(STRATEGIES)}")
        elif strategy == "delete" and value is not None:
            complain(key, "it is deleted and has a value too", "keep one of them")
        elif strategy != "delete" and value is None:
            complain(key, f"it is to {strategy.split()[0]}, but has no value here")
        elif strategy in {"append", "prepend"} and not isinstance(value, list):
            complain(key, f"`{strategy}` is for lists, not for {kind_of(value)}")
        elif strategy.startswith("by "):
            _check_by(key, strategy.removeprefix("by "), value, complain)
    return tuple(found)


def _check_by(key: str, name: str, value: Any, complain: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        complain(key, f"`by {name}` is for lists of maps, not for {kind_of(value)}")
        return
    names = [one.get(name) for one in value]
    if any(not isinstance(one, (str, int)) for one in names):
        complain(key, f"an item has no `{name}` to merge by")
    twice = sorted({str(one) for one in names if names.count(one) > 1})
    if twice:
        complain(key, f"two items have the {name} {twice[0]}")


def _look(value: Any, path: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield (path, problem, hint) for every value; no problem is ""."""
    if len(path) > MAX_DEPTH:
        yield path, f"more than {MAX_DEPTH} levels deep", ""
    elif isinstance(value, dict):
        yield path, "", ""
        for key, one in value.items():
            if _KEY.match(key) is None:
                hint = "a key has 1-64 letters, digits, _ and -; dots part the levels"
                yield (*path, key[:80]), "it cannot be a key", hint
            else:
                yield from _look(one, (*path, key))
    elif isinstance(value, (list, tuple)):
        yield path, "", ""
        for number, one in enumerate(value):
            yield from _look(one, (*path, str(number)))
    else:
        yield path, *_look_scalar(value)


def _look_scalar(value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return "", ""
    if isinstance(value, int):
        return ("", "") if abs(value) < MAX_INTEGER else (f"{value} is not below 2**53", "write it as text")
    if isinstance(value, float):
        return f"{value!r} is not a whole number", "write it as text: the type `number` reads it"
    if value is None:
        return "it is empty", "leave the key out, or say `delete` for it under `merge`"
    if not isinstance(value, str):
        return f"a {type(value).__name__} is no value", ""
    if "\0" in value:
        return "it has a NUL character", ""
    if len(value) > MAX_TEXT:
        return f"a text of {len(value)} characters, at most {MAX_TEXT} are allowed", ""
    try:
        value.encode()
    except UnicodeEncodeError:
        return "it is not valid text", ""
    return "", ""


def kind_of(value: Any) -> str:
    """Return what kind of value it is, for messages."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int) else "text"


def show_value(value: Any) -> str:
    """Return a value on one line, for people."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show_value(one) for one in value) + "]"
    return str(value)
