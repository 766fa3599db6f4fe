"""Secrets: sealed to each node that may read them; the list of boxes is signed, the boxes are plain objects."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

SUITE = "HPKE-X25519-HKDF-SHA256-AES256GCM"
MAX_VALUE = 64 * 1024
"""Bytes of one secret."""
FOLDER = "/run/secrets"
SIGNALS = ("HUP", "USR1", "USR2", "TERM", "INT", "QUIT")
"""What an instance may be told a rotation by."""
_PATH = re.compile(r"(?:/[A-Za-z0-9_.+-]{1,64}){2,8}\Z")
_TAKEN = ("dev", "proc", "sys", "tmp")


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
class SecretWish:
    """A secret of a spec. generate: how a value is made where there is none (`32 alnum`), "" = a person sets it."""

    use: SecretUse
    generate: str = ""


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
    """An opened secret on its way into a container. place: below the folder that is mounted (`places`). Never printed."""

    place: str
    value: bytes = field(repr=False)


def key_of(service: str, name: str) -> str:
    """Return how people and tables write a secret: `web/db-password`."""
    return f"{service}/{name}"


def folder_of(use: SecretUse) -> str:
    """Return the folder in the container that the secret's file lies in."""
    return use.path.rpartition("/")[0]


def folders_of(uses: tuple[SecretUse, ...]) -> dict[str, str]:
    """Return, by each folder in the container, the name of the folder on the node that is shown there."""
    return {folder: str(number) for number, folder in enumerate(sorted({folder_of(one) for one in uses}))}


def places(uses: tuple[SecretUse, ...]) -> dict[str, str]:
    """Return where each secret's file lies below what is mounted, by its name: `0/db-password`."""
    folders = folders_of(uses)
    return {one.name: f"{folders[folder_of(one)]}/{one.path.rpartition('/')[2]}" for one in uses}


def find_path_problem(path: str) -> str:
    """Return why a secret's file cannot lie there, or ""."""
    parts = path.split("/")[1:]
    if not _PATH.match(path) or {".", ".."} & set(parts):
        return "it is not an absolute path below a folder, of letters, digits and _ . + -"
    if parts[-1].startswith("."):
        return "its name starts with a dot"
    return f"nothing of a service lies below /{parts[0]}" if parts[0] in _TAKEN else ""


def rotation_nonce(listed: SecretList) -> str:
    """Return what receipts of a rotation to this version repeat: hex, one for each version."""
    text = f"nebh/rotation/v1|{listed.cluster_id}|{listed.service}|{listed.name}|{listed.version}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
