"""DSSE envelopes (github.com/secure-systems-lab/dsse, protocol v1.0.2): the bytes around signed statements.

Only the framing is here; signing and verifying are in `signing/`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from nebh.model.errors import BadInput
from nebh.wire import codec

LIMIT = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Signature:
    """keyid: hex SHA-256 of the canonical public key; sig: standard base64."""

    keyid: str
    sig: str


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """payload: standard base64 of the statement's canonical bytes."""

    payload: str
    payloadType: str  # noqa: N815 - the name in the DSSE specification
    signatures: tuple[Signature, ...]


def payload_type(kind: str) -> str:
    """Return the media type of statements of `kind`."""
    return f"application/vnd.nebh.{kind}.v1+json"


def pae(media_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: the bytes that are signed."""
    encoded = media_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(encoded), encoded, len(payload), payload)


def wrap(media_type: str, payload: bytes, signatures: tuple[Signature, ...]) -> bytes:
    """Return the canonical bytes of an envelope."""
    return codec.encode(
        Envelope(payload=base64.b64encode(payload).decode(), payloadType=media_type, signatures=signatures)
    )


def unwrap(data: bytes) -> tuple[str, bytes, tuple[tuple[str, bytes], ...]]:
    """Return (media type, payload bytes, ((keyid, raw signature), ...)). Raises BadInput."""
    envelope = codec.decode(data, Envelope, what="a signed statement", limit=LIMIT)
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = tuple((one.keyid, base64.b64decode(one.sig, validate=True)) for one in envelope.signatures)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"cannot read a signed statement: {error}") from error
    return envelope.payloadType, payload, signatures
