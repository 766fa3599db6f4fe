"""Canonical JSON for dataclasses: one value has exactly one encoding, and only that encoding is accepted.

Canonical: UTF-8, keys sorted, no white space, no floats, integers below 2**53, every field present. `decode` refuses
unknown fields, duplicate keys and any other spelling by encoding what it understood and comparing the bytes.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from nebh.model.errors import BadInput

T = TypeVar("T")
MAX_INTEGER = 2**53
_ENCODER = msgspec.json.Encoder(order="sorted")


def encode(value: object) -> bytes:
    """Return the canonical bytes of a dataclass or of plain dicts, lists, str, int, bool and None."""
    return _ENCODER.encode(value)


def decode(data: bytes, kind: type[T], *, what: str, limit: int = 1 << 20) -> T:
    """Return a `kind` from canonical bytes. Raises BadInput naming `what` and the first difference."""
    value = decode_loose(data, kind, what=what, limit=limit)
    _check_scalars(value, what=what)
    if encode(value) != data:
        raise BadInput(f"cannot read {what}: {_difference(data, value)}")
    return value


def decode_loose(data: bytes, kind: type[T], *, what: str, limit: int = 1 << 20) -> T:
    """Return a `kind` from JSON in any spelling, unknown fields ignored: for API answers, never for signed bytes."""
    if len(data) > limit:
        raise BadInput(f"cannot read {what}: {len(data)} bytes, at most {limit} are allowed")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"cannot read {what}: {error}") from error


def to_plain(value: object) -> Any:
    """Return dicts, lists and scalars for a dataclass."""
    return msgspec.to_builtins(value)


def from_plain(value: object, kind: type[T], *, what: str) -> T:
    """Return a `kind` from plain data. Raises BadInput."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"cannot read {what}: {error}") from error


def _check_scalars(value: object, *, what: str) -> None:
    stack: list[Any] = [msgspec.to_builtins(value)]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, float):
            raise BadInput(f"cannot read {what}: {item!r} is not an integer")
        elif isinstance(item, int) and not isinstance(item, bool) and abs(item) >= MAX_INTEGER:
            raise BadInput(f"cannot read {what}: {item} is not below 2**53")


def _difference(data: bytes, value: object) -> str:
    """Say in what way `data` is not the canonical encoding of `value`."""
    try:
        given = json.loads(data, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        return str(error)
    unknown = _first_unknown(given, msgspec.to_builtins(value), "")
    return unknown or "it is not canonical JSON (sorted keys, no white space, every field present)"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, item in pairs:
        if key in seen:
            raise ValueError(f"the key {key!r} stands twice")
        seen[key] = item
    return seen


def _first_unknown(given: Any, known: Any, path: str) -> str:
    if isinstance(given, dict) and isinstance(known, dict):
        for key in given:
            where = f"{path}.{key}" if path else key
            if key not in known:
                return f"unknown field {where!r}"
            found = _first_unknown(given[key], known[key], where)
            if found:
                return found
        missing = [key for key in known if key not in given]
        return f"field {missing[0]!r} is missing at {path or 'the top'}" if missing else ""
    if isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=False)):
            found = _first_unknown(one, other, f"{path}[{index}]")
            if found:
                return found
    return ""
