"""What a caller signs to show the controller who it is."""

from __future__ import annotations

from nebh.model.api.who import Who


def challenge(*, kind: Who, nonce: str) -> bytes:
    """Return the bytes to sign for a token: they can be mistaken for no other signed thing of ours."""
    return f"nebh/v1/token\n{kind.value}\n{nonce}\n".encode()
