"""A node's account at an ACME authority: the key stays with the executor, which signs a closed set of requests.

Whoever carries the conversation (the agent) can have nothing signed that would give it a certificate for a key of its
own: no other host, no other request for a certificate, no other account, no change of this account's key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from nebh.model.errors import Refused

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,512}\Z")
_URL = re.compile(r"https?://[!-~]{1,2000}\Z")
MOST_SIGNATURES = 100
"""In one conversation."""


def encode(data: bytes) -> str:
    """Return base64url without padding, as ACME writes bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private


def _jwk(key: bytes) -> dict[str, str]:
    numbers = _private(key).public_key().public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": encode(numbers.x.to_bytes(32, "big")),
        "y": encode(numbers.y.to_bytes(32, "big")),
    }


def thumbprint(key: bytes) -> str:
    """Return the JWK thumbprint (RFC 7638) of a key of `tls_pem.make_key`: it follows each token of a challenge."""
    return encode(hashlib.sha256(_compact(_jwk(key))).digest())


@dataclass(kw_only=True)
class Signer:
    """Signs for one certificate of one host. account: PEM of the account's key; request: DER, of the host's own key."""

    account: bytes = field(repr=False)
    host: str
    email: str
    request: bytes
    count: int = 0

    def sign(self, kind: str, *, url: str, nonce: str, kid: str) -> bytes:
        """Return the body (flattened JWS) of a request of one kind: account, order, challenge, finalize, or get. Raises
        Refused for anything else."""
        self.count += 1
        texts = all(isinstance(one, str) for one in (kind, url, nonce, kid))
        if not texts or not _URL.match(url) or not _TOKEN.match(nonce) or self.count > MOST_SIGNATURES:
            raise Refused("cannot sign for the authority: no such request is signed", rule="acme")
        protected: dict[str, Any] = {"alg": "ES256", "nonce": nonce, "url": url}
        if kind == "account":
            protected["jwk"] = _jwk(self.account)
        elif _URL.match(kid):
            protected["kid"] = kid
        else:
            raise Refused("cannot sign for the authority: the account has no address", rule="acme")
        head, body = encode(_compact(protected)), encode(self._payload(kind))
        r, s = decode_dss_signature(_private(self.account).sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
        signature = encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return _compact({"protected": head, "payload": body, "signature": signature})

    def _payload(self, kind: str) -> bytes:
        if kind == "account":
            contact = {"contact": [f"mailto:{self.email}"]} if self.email else {}
            return _compact({"termsOfServiceAgreed": True, **contact})
        if kind == "order":
            return _compact({"identifiers": [{"type": "dns", "value": self.host}]})
        if kind == "finalize":
            return _compact({"csr": encode(self.request)})
        if kind in ("challenge", "get"):
            return b"{}" if kind == "challenge" else b""
        raise Refused(f"cannot sign for the authority: {kind[:40]!r} is no request that is signed", rule="acme")
