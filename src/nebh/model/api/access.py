"""Who may ask, and how they prove it. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.api.who import Who


@dataclass(frozen=True, kw_only=True)
class Health:
    """The controller answers. snapshot: version of the published set, 0 = nothing was published yet."""

    version: str
    cluster_id: str
    snapshot: int
    now: int


@dataclass(frozen=True, kw_only=True)
class Nonce:
    """To be signed (`wire.challenge`) within a minute."""

    nonce: str


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """kind: node, operator, or ci (a key that may sign releases of some services). key: hex Ed25519 public key. signature: hex. envelope: for a node, the node-signed
    `transport` statement that names the key."""

    kind: Who
    key: str
    nonce: str
    signature: str
    envelope: str = ""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token. name: the node's name, or the beginning of the operator's key."""

    token: str
    expires_at: int
    kind: Who
    name: str
