"""A node's two keys: Ed25519 for statements, X25519 for sealed boxes. Both stay on the node, 0600."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from nebh.host import files
from nebh.model.errors import BadInput, Broken, NotFound
from nebh.signing.statements import Seed

SIGN, SEAL = "sign.key", "seal.key"


class NodeKeys(NamedTuple):
    """sign: signs receipts. seal_pk: hex X25519 public key."""

    sign: Seed
    seal_pk: str


def ensure_node_keys(directory: Path) -> NodeKeys:
    """Return the node's keys, made on the first call. Raises Broken when a key file is damaged."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (SIGN, SEAL):
        if not (directory / name).exists():
            files.write_atomic(directory / name, os.urandom(32).hex().encode() + b"\n", mode=0o600)
    return load_node_keys(directory)


def load_node_keys(directory: Path) -> NodeKeys:
    """Return the node's keys. Raises NotFound or Broken."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    seal = X25519PrivateKey.from_private_bytes(load_seed(directory / SEAL).seed)
    return NodeKeys(sign=load_seed(directory / SIGN), seal_pk=seal.public_key().public_bytes_raw().hex())


def load_seed(path: Path) -> Seed:
    """Return a raw key from a file with 64 hex digits that only its owner may read. Raises NotFound, Broken."""
    try:
        data = files.read_bounded(path, limit=128)
        mode = path.stat().st_mode & 0o077
    except FileNotFoundError as error:
        raise NotFound(f"cannot read the key {path}: no such file") from error
    except OSError as error:
        raise Broken(f"cannot read the key {path}: {error}") from error
    if mode:
        raise Broken(f"cannot use the key {path}: others may read it", hint=f"chmod 0600 {path}")
    try:
        seed = bytes.fromhex(data.decode().strip())
    except ValueError as error:
        raise Broken(f"cannot read the key {path}: it is not hex") from error
    if len(seed) != 32:
        raise Broken(f"cannot read the key {path}: {len(seed)} bytes, not 32")
    return Seed(seed)


def save_seed(path: Path, seed: Seed) -> None:
    """Write a raw key, 0600; an existing file is never replaced. Raises BadInput."""
    if path.exists():
        raise BadInput(f"cannot write the key {path}: it exists")
    files.write_atomic(path, seed.seed.hex().encode() + b"\n", mode=0o600)
