"""Secrets: sealed to each node that may read them; the list of boxes is signed, the boxes are plain objects."""

from __future__ import annotations

from dataclasses import dataclass

SUITE = "HPKE-X25519-HKDF-SHA256-AES256GCM"


@dataclass(frozen=True, kw_only=True)
class Box:
    """digest: hex SHA-256 of a sealed box; bytes: its length."""

    digest: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class SecretList:
    """The TUF target `secrets/<service>/<name>.json`. signed_at: Unix seconds; boxes: by node id."""

    cluster_id: str
    service: str
    name: str
    version: int
    signed_at: int
    boxes: dict[str, Box]
    suite: str = SUITE


@dataclass(frozen=True, kw_only=True)
class SecretUse:
    """How a release gets a secret. path: absolute, in the container, mode 0400 of the release's user; env: a variable
    that holds it ("" = none, as it should be); signal: sent to the instance when it is rotated ("" = it looks by
    itself)."""

    name: str
    path: str
    env: str = ""
    signal: str = ""
