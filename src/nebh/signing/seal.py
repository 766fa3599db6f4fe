"""Sealed boxes: HPKE (RFC 9180, base mode, single shot) to an X25519 key, bound to whom and what they are for.

A box is the encapsulated key (32 bytes), then the ciphertext with its tag (16 bytes more than the value). Whoever knows
a public key can seal to it: what makes a box an operator's is its hash in the signed list (N11), never the box itself.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from nebh.model.errors import BadInput, Refused
from nebh.model.names import is_digest
from nebh.model.secret import MAX_VALUE, Box, SealedFor

OVERHEAD = 32 + 16
"""Bytes by which a box is longer than its value: the encapsulated key and the tag."""
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_PRIME = 2**255 - 19


def seal(value: bytes, *, public: str, to: SealedFor) -> bytes:
    """Return a box with `value` (1 to MAX_VALUE bytes) that only the holder of the X25519 key `public` (hex) opens.

    Two boxes with one value differ. Raises BadInput for a value of another size and for what is no such key.
    """
    if not 0 < len(value) <= MAX_VALUE:
        raise BadInput(f"cannot seal {to.title}: {len(value)} bytes, 1 to {MAX_VALUE} are allowed")
    try:
        if not is_digest(public):
            raise ValueError
        return _SUITE.encrypt(value, X25519PublicKey.from_public_bytes(bytes.fromhex(public)), info=to.info)
    except ValueError:
        raise BadInput(f"cannot seal {to.title}: {public[:80]!r} is no X25519 key") from None


def open_box(box: bytes, *, private: bytes, to: SealedFor) -> bytes:
    """Return the value in a box. private: 32 raw bytes. Raises Refused (N11) for a box that is damaged, of another key,
    or sealed for another node, service, name or version; the message tells neither value nor box."""
    if not OVERHEAD < len(box) <= OVERHEAD + MAX_VALUE:
        raise Refused(f"cannot open {to.title}: {len(box)} bytes are no box", rule="N11")
    try:
        return _SUITE.decrypt(box, X25519PrivateKey.from_private_bytes(private), info=to.info)
    except (InvalidTag, ValueError):
        # `from None`: a chain would show where in the box it went wrong.
        raise Refused(
            f"cannot open {to.title}: the box was not sealed to this key for exactly that",
            rule="N11",
            hint="seal it anew: `nebh secret rotate`; was the node's key replaced?",
        ) from None


def new_answer_key() -> tuple[bytes, str]:
    """Return a fresh X25519 key for one command's answers: 32 private raw bytes, and the public key in hex."""
    private = X25519PrivateKey.generate().private_bytes_raw()
    return private, public_of(private)


def seal_answer(data: bytes, *, public: str, info: bytes) -> bytes:
    """Return `data` sealed to the X25519 key `public` (hex), bound to `info`. Raises BadInput for what is no key."""
    try:
        if not is_digest(public):
            raise ValueError
        return _SUITE.encrypt(data, X25519PublicKey.from_public_bytes(bytes.fromhex(public)), info=info)
    except ValueError:
        raise BadInput(f"cannot seal an answer: {public[:80]!r} is no X25519 key") from None


def open_answer(box: bytes, *, private: bytes, info: bytes) -> bytes:
    """Return what `seal_answer` sealed. Raises Refused for anything else."""
    try:
        return _SUITE.decrypt(box, X25519PrivateKey.from_private_bytes(private), info=info)
    except (InvalidTag, ValueError):
        raise Refused("cannot open the node's answer: it was not sealed for this question", rule="O5") from None


def box_of(data: bytes) -> Box:
    """Return what a signed list says of a box."""
    return Box(digest=hashlib.sha256(data).hexdigest(), bytes=len(data))


def public_of(private: bytes) -> str:
    """Return the hex X25519 public key of 32 raw private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def sealing_key(public: str) -> str:
    """Return the X25519 key (hex) that belongs to an Ed25519 public key (hex): the same point on the curve's other form
    (RFC 7748, 4.1), so that values can be sealed to whoever signs. Raises BadInput."""
    if not is_digest(public):
        raise BadInput(f"cannot seal to the key {public[:80]!r}: it is not 64 hex digits")
    y = int.from_bytes(bytes.fromhex(public), "little") & ((1 << 255) - 1)
    if y >= _PRIME or y in (0, 1, _PRIME - 1):
        raise BadInput(f"cannot seal to the key {public[:16]}: it is no Ed25519 key")
    u = (1 + y) * pow(1 - y, _PRIME - 2, _PRIME) % _PRIME
    return u.to_bytes(32, "little").hex()


def opening_key(seed: bytes) -> bytes:
    """Return the X25519 private key that belongs to an Ed25519 seed: `public_of` it is `sealing_key` of the public."""
    return hashlib.sha512(seed).digest()[:32]  # X25519 clamps it as Ed25519 does
