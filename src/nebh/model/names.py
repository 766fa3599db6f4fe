"""Names that appear in paths, DNS, unit names and signed bodies: one narrow alphabet for all."""

from __future__ import annotations

import re

from nebh.model.errors import BadInput

NAME_PATTERN = r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?"
_NAME = re.compile(NAME_PATTERN + r"\Z")
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
RESERVED = frozenset({"nebh", "cluster", "root", "targets", "snapshot", "timestamp", "all", "localhost"})


def is_name(text: str) -> bool:
    """Tell whether `text` is a lower-case DNS label of at most 32 characters that starts with a letter."""
    return _NAME.match(text) is not None and "--" not in text


def check_name(text: str, *, what: str) -> str:
    """Return `text`, or raise BadInput naming `what` ("service", "node", "group", "port")."""
    if not is_name(text):
        raise BadInput(
            f"cannot use {text!r} as the name of a {what}",
            hint="a name has 1-32 of a-z, 0-9 and single -, starts with a letter, does not end with -",
        )
    if what == "service" and text in RESERVED:
        raise BadInput(f"cannot use {text!r} as the name of a service: the word is reserved", hint="choose another")
    return text


def is_digest(text: str) -> bool:
    """Tell whether `text` is a lower-case hex SHA-256."""
    return _HEX64.match(text) is not None


def instance_id(*, service: str, counter: int, replica: int, attempt: int) -> str:
    """Return the id of a container: `web-7-0-3` is service web, release 7, replica 0, third attempt on this node."""
    return f"{service}-{counter}-{replica}-{attempt}"
