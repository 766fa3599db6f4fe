"""Signed statements (DSSE) with Ed25519 keys. Lean on purpose: the executor imports this, so no tuf and no
securesystemslib, only `cryptography`'s Ed25519.

Public keys are lower-case hex of the raw 32 bytes; a keyid is the hex SHA-256 of the canonical TUF key, so that a
key has one keyid everywhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from nebh.model.errors import BadInput, Refused
from nebh.model.names import is_digest
from nebh.wire import codec, dsse

T = TypeVar("T")
MAX_SIGNATURES = 8


class StatementSigner(Protocol):
    """Whatever holds an Ed25519 key: a file, an ssh-agent, a node."""

    @property
    def public(self) -> str:
        """The public key, hex."""
        ...

    def sign_bytes(self, data: bytes) -> bytes:
        """Return the raw 64-byte signature over `data`."""
        ...


@dataclass(frozen=True, repr=False)
class Seed:
    """An Ed25519 private key as its 32 raw bytes. Never printed."""

    seed: bytes

    @property
    def public(self) -> str:
        """The public key, hex."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw().hex()

    def sign_bytes(self, data: bytes) -> bytes:
        """Return the raw signature over `data`."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(data)

    def __repr__(self) -> str:
        return f"Seed(public={self.public})"


def keyid_of(public: str) -> str:
    """Return the keyid of a hex Ed25519 public key."""
    canonical = codec.encode({"keytype": "ed25519", "keyval": {"public": public}, "scheme": "ed25519"})
    return hashlib.sha256(canonical).hexdigest()


def verify_raw(*, public: str, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` over `data` is by the hex key `public`."""
    if not is_digest(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def sign_statement(kind: str, statement: object, signer: StatementSigner) -> bytes:
    """Return the canonical bytes of an envelope around `statement`; kind: assignment | order | receipt | ..."""
    media_type = dsse.payload_type(kind)
    payload = codec.encode(statement)
    raw = signer.sign_bytes(dsse.pae(media_type, payload))
    signature = dsse.Signature(keyid=keyid_of(signer.public), sig=base64.b64encode(raw).decode())
    return dsse.wrap(media_type, payload, (signature,))


def verify_statement(data: bytes, kind: str, cls: type[T], *, keys: Collection[str], cluster_id: str = "") -> T:
    """Return the statement inside an envelope once one of `keys` (hex public keys) is seen to have signed it.

    Raises BadInput for bytes that are no canonical envelope or statement, Refused (N1) for another kind or when no
    key of `keys` signed, Refused (N0) when `cluster_id` is given and the body carries another.
    """
    media_type, payload, signatures = dsse.unwrap(data)
    if media_type != dsse.payload_type(kind):
        raise Refused(f"cannot take this statement for a {kind}: its type is {media_type!r}", rule="N1")
    if len(signatures) > MAX_SIGNATURES:
        raise Refused(f"cannot accept the {kind}: it has {len(signatures)} signatures", rule="N1")
    by_id = {keyid_of(public): public for public in keys}
    message = dsse.pae(media_type, payload)
    if not any(
        keyid in by_id and verify_raw(public=by_id[keyid], signature=raw, data=message) for keyid, raw in signatures
    ):
        raise Refused(
            f"cannot accept the {kind}: no key that may sign it did",
            rule="N1",
            hint="was the key revoked, or does this come from another cluster?",
        )
    statement = codec.decode(payload, cls, what=f"a signed {kind}", limit=dsse.LIMIT)
    body_cluster = getattr(statement, "cluster_id", "")
    if cluster_id and body_cluster != cluster_id:
        raise Refused(f"cannot accept the {kind}: it is of cluster {body_cluster!r}", rule="N0")
    return statement


def peek_statement(data: bytes, kind: str, cls: type[T]) -> T:
    """Return the statement of an envelope whose signature is NOT verified: to route or to show, never to act on."""
    media_type, payload, _ = dsse.unwrap(data)
    if media_type != dsse.payload_type(kind):
        raise BadInput(f"cannot read a {kind}: its type is {media_type!r}")
    return codec.decode(payload, cls, what=f"a {kind}", limit=dsse.LIMIT)
