"""Values that are made, not given: `32 alnum`."""

from __future__ import annotations

import re
import secrets
import string

from nebh.model.errors import BadInput

_RULE = re.compile(r"([1-9]\d{0,3}) (alnum|hex|base64|digits)\Z")
_LETTERS = {
    "alnum": string.ascii_letters + string.digits,
    "hex": string.digits + "abcdef",
    "base64": string.ascii_letters + string.digits + "-_",
    "digits": string.digits,
}


def generate_value(rule: str) -> bytes:
    """Return as many random letters of a kind as `rule` says. Raises BadInput."""
    found = _RULE.match(rule)
    if found is None:
        raise BadInput(
            f"cannot make a value by {rule[:80]!r}",
            hint="write a length and a kind: `32 alnum` (alnum, hex, base64, digits)",
        )
    letters = _LETTERS[found[2]]
    return "".join(secrets.choice(letters) for _ in range(int(found[1]))).encode()
