"""Errors <-> plain data: how the error tree travels in API answers and on Nebh's sockets.

Shape: {"error": message, "hint": what to do, "kind": class name, "rule": `N5` or ""}.
"""

from __future__ import annotations

from typing import Any

from nebh.model import errors

_KINDS: dict[str, type[errors.NebhError]] = {
    kind.__name__: kind
    for kind in (
        errors.NebhError,
        errors.BadInput,
        errors.Unconfirmed,
        errors.Unreachable,
        errors.Conflict,
        errors.NotFound,
        errors.Failed,
        errors.Broken,
    )
}


def to_plain(error: errors.NebhError) -> dict[str, Any]:
    """Return the error as plain data; subclasses travel as their nearest class of the tree."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS or base is errors.Refused)
    rule = error.rule if isinstance(error, errors.Refused) else ""
    return {"error": error.message, "hint": error.hint, "kind": kind, "rule": rule}


def from_plain(plain: dict[str, Any]) -> errors.NebhError:
    """Return the error that `to_plain` described; an unknown kind becomes NebhError."""
    message, hint = str(plain.get("error", "")), str(plain.get("hint", ""))
    if plain.get("kind") == "Refused":
        return errors.Refused(message, rule=str(plain.get("rule", "")), hint=hint)
    return _KINDS.get(str(plain.get("kind", "")), errors.NebhError)(message, hint=hint)
