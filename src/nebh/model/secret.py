"""Secrets: sealed to each node that may read them; the list of boxes is signed, the boxes are plain objects."""

from __future__ import annotations

from dataclasses import dataclass, field

SUITE = "HPKE-X25519-HKDF-SHA256-AES256GCM"
MAX_VALUE = 64 * 1024
"""Bytes of one secret."""
FOLDER = "/run/secrets"


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


@dataclass(frozen=True, kw_only=True)
class SealedFor:
    """What a box is bound to. recipient: a node id, or `vault:<hex key>` for an operator's own copy."""

    cluster_id: str
    recipient: str
    service: str
    name: str
    version: int

    @property
    def info(self) -> bytes:
        """HPKE's info: `nebh/v1|cluster|node|service|name|version`; no field can hold a bar."""
        parts = ("nebh/v1", self.cluster_id, self.recipient, self.service, self.name, str(self.version))
        if any("|" in one for one in parts):
            raise ValueError("a bar in what a box is sealed for")
        return "|".join(parts).encode()

    @property
    def title(self) -> str:
        """For people."""
        return f"version {self.version} of secret {self.service}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class SecretFile:
    """An opened secret on its way into a container. folder: absolute, in the container; name: in it. Never printed."""

    folder: str
    name: str
    value: bytes = field(repr=False)


def key_of(service: str, name: str) -> str:
    """Return how people and tables write a secret: `web/db-password`."""
    return f"{service}/{name}"


def folder_of(use: SecretUse) -> str:
    """Return the folder in the container that the secret's file lies in."""
    return use.path.rpartition("/")[0]
