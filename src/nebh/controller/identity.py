"""Who calls: a signed nonce becomes a token for 15 minutes. Nothing of it is stored.

Nonces carry their own time and a MAC, so that asking for many fills nothing; only those that a known key used are
remembered, for the minute they would be valid. Tokens are MACed under a key that dies with the process.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from nebh.model.api import Token, Who
from nebh.model.errors import BadInput, Refused

NONCE_MS = 60_000
TOKEN_MS = 15 * 60_000


class Unidentified(Refused):
    """The token is missing, over its time, or not for this operation. `again`: a new token may help."""

    def __init__(self, message: str, *, again: bool, hint: str = "") -> None:
        super().__init__(message, rule="identity", hint=hint)
        self.again = again


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A caller. key: hex public key of an operator or of a node's transport; node_id: of a node."""

    kind: Who
    name: str
    key: str = ""
    node_id: str = ""


NOBODY = Caller(kind=Who.NOBODY, name="nobody")


class Identity:
    """Gives out nonces and tokens. now: Unix ms."""

    def __init__(self, *, now: Callable[[], int]) -> None:
        self._now = now
        self._secret = secrets.token_bytes(32)
        self._used: dict[str, int] = {}

    def nonce(self) -> str:
        """Return a fresh nonce, good for a minute and for one use."""
        body = f"{self._now():x}.{secrets.token_hex(16)}"
        return f"{body}.{self._mac('nonce', body)}"

    def use_nonce(self, nonce: str) -> None:
        """Take a nonce that was just signed by a key we know. Raises Unidentified."""
        body, _, mac = nonce.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac("nonce", body).encode()):
            raise Unidentified("cannot take the nonce: this controller did not give it out", again=True)
        now, made = self._now(), int(body.partition(".")[0], 16)
        self._used = {used: end for used, end in self._used.items() if end > now}
        if not now - NONCE_MS < made <= now or nonce in self._used:
            raise Unidentified("cannot take the nonce: it is too old or was used before", again=True)
        self._used[nonce] = made + NONCE_MS

    def token(self, caller: Caller) -> Token:
        """Return a token for `caller`."""
        end = self._now() + TOKEN_MS
        body = "~".join((caller.kind.value, caller.name, caller.key, caller.node_id, str(end)))
        text = f"{body}~{self._mac('token', body)}"
        return Token(token=text, expires_at=end, kind=caller.kind, name=caller.name)

    def caller(self, token: str) -> Caller:
        """Return whom a token was given to. Raises Unidentified."""
        body, _, mac = token.rpartition("~")
        if not hmac.compare_digest(mac.encode(), self._mac("token", body).encode()):
            raise Unidentified("cannot accept the token: this controller did not give it out", again=True)
        kind, name, key, node_id, end = body.split("~")
        if int(end) <= self._now():
            raise Unidentified("cannot accept the token: its 15 minutes are over", again=True)
        return Caller(kind=Who(kind), name=name, key=key, node_id=node_id)

    def _mac(self, use: str, body: str) -> str:
        return hmac.new(self._secret, f"{use}|{body}".encode(errors="replace"), hashlib.sha256).hexdigest()


def check_hex(text: str, *, size: int, what: str) -> bytes:
    """Return the bytes of lower-case hex. Raises BadInput."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size or data.hex() != text:
        raise BadInput(f"cannot read {what}: it is not {size} bytes in hex")
    return data
