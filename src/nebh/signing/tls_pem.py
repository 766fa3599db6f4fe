"""Certificates for routes as PEM: read, matched with their key, and checked before a proxy gets them.

What a secret holds is an operator's; what an authority sent came through the agent and is anybody's. Both are parsed by
`cryptography` (memory-safe code), within MOST_PEM bytes, and written anew from what was understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509 import verification

from nebh.model.errors import BadInput

MOST_PEM = 15_000
"""Bytes of chain and key together: HAProxy's runtime API takes no more than its buffer of 16 KiB."""
_MOST_CHAIN = 10
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A chain and its key as a proxy reads them. not_before, not_after: of the leaf, Unix ms; issuer: who signed it."""

    pem: bytes = field(repr=False)
    not_before: int
    not_after: int
    issuer: str


def read_bundle(data: bytes, *, hosts: tuple[str, ...], now: int | None, what: str) -> Bundle:
    """Return the certificate chain and key in `data`, fit to answer for `hosts` now (Unix ms; None: at some time). Raises
    BadInput."""
    blocks = _blocks(data, what)
    keys = [one for name, one in blocks if name.endswith("PRIVATE KEY")]
    if any(name == "ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in one for name, one in blocks):
        raise BadInput(f"cannot use {what}: its key has a passphrase", hint="`openssl pkey -in key.pem` takes it away")
    if len(keys) != 1:
        said = "no key" if not keys else f"{len(keys)} keys"
        raise BadInput(f"cannot use {what}: {said} in it, one is needed", hint="cat fullchain.pem key.pem > both.pem")
    chain = _chain([one for name, one in blocks if name == "CERTIFICATE"], what)
    return _bundle(chain, _key(keys[0], what), hosts=hosts, now=now, what=what)


def accept_chain(data: bytes, *, key: bytes, host: str, now: int, authorities: bytes, what: str) -> Bundle:
    """Return what an authority gave for our `key` (PEM), fit to answer for `host` now (Unix ms). authorities: PEM of
    those that count; the chain must lead to one. Raises BadInput."""
    chain = _chain([one for name, one in _blocks(data, what) if name == "CERTIFICATE"], what)
    bundle = _bundle(chain, _key(key, what), hosts=(host,), now=now, what=what)
    try:
        roots = x509.load_pem_x509_certificates(authorities)
        policy = verification.PolicyBuilder().store(verification.Store(roots)).time(_moment(now).replace(tzinfo=None))
        policy = policy.extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
            ee_policy=verification.ExtensionPolicy.permit_all().require_present(
                x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
            ),
        )
        policy.build_server_verifier(x509.DNSName(host)).verify(chain[0], chain[1:])
    except (verification.VerificationError, ValueError) as error:
        raise BadInput(
            f"cannot use {what}: it leads to no authority that counts here: {error}",
            hint="`ca` in the spec names other authorities than the system's",
        ) from error
    return bundle


def _blocks(data: bytes, what: str) -> list[tuple[str, bytes]]:
    if len(data) > 4 * MOST_PEM:
        raise BadInput(f"cannot use {what}: {len(data)} bytes are more than any certificate has")
    return [(match[1].decode(), match[0]) for match in _BLOCK.finditer(data)]


def _chain(blocks: list[bytes], what: str) -> list[x509.Certificate]:
    if not 0 < len(blocks) <= _MOST_CHAIN:
        said = "no certificate in it" if not blocks else f"{len(blocks)} certificates, at most {_MOST_CHAIN}"
        hint = "PEM is needed: -----BEGIN CERTIFICATE----- ..., the host's own certificate first"
        raise BadInput(f"cannot use {what}: {said}", hint=hint)
    try:
        return [x509.load_pem_x509_certificate(one) for one in blocks]
    except ValueError as error:
        raise BadInput(f"cannot use {what}: a certificate in it cannot be read: {error}") from error


def _key(data: bytes, what: str) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadInput(f"cannot use {what}: its key cannot be read") from None  # no word of a key goes into an error


def _bundle(
    chain: list[x509.Certificate], key: PrivateKeyTypes, *, hosts: tuple[str, ...], now: int | None, what: str
) -> Bundle:
    leaf = chain[0]
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BadInput(f"cannot use {what}: its key is neither EC nor RSA")
    if _public(leaf.public_key()) != _public(key.public_key()):
        other = any(_public(one.public_key()) == _public(key.public_key()) for one in chain[1:])
        hint = (
            "the host's own certificate must come first" if other else "take the key that the certificate was made for"
        )
        raise BadInput(f"cannot use {what}: the key does not belong to the certificate", hint=hint)
    if now is not None:
        _check_time(leaf, now, what)
    for host in hosts:
        names = _names(leaf)
        if not any(_covers(name, host) for name in names):
            raise BadInput(
                f"cannot use {what}: the certificate is not for {host}, but for {', '.join(names) or 'no name'}",
                hint="have one made whose subjectAltName holds every host of the routes that use it",
            )
    for one, above in pairwise(chain):
        if one.issuer != above.subject:
            raise BadInput(f"cannot use {what}: its certificates are not in order, each signed by the next")
    text = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if len(text) > MOST_PEM:
        raise BadInput(
            f"cannot use {what}: chain and key have {len(text)} bytes, at most {MOST_PEM} can be given to the proxy",
            hint="leave the root out of the chain, or take an EC key",
        )
    return Bundle(pem=text, not_before=_first(leaf), not_after=_last(leaf), issuer=_issuer(leaf))


def _check_time(leaf: x509.Certificate, now: int, what: str) -> None:
    if now >= _last(leaf):
        day = leaf.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
        raise BadInput(
            f"cannot use {what}: the certificate expired on {day}", hint="get a new one; is the clock right?"
        )
    if now < _first(leaf):
        day = leaf.not_valid_before_utc.strftime("%Y-%m-%d %H:%M UTC")
        raise BadInput(f"cannot use {what}: the certificate begins on {day} only", hint="is the clock here right?")


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _covers(name: str, host: str) -> bool:
    return name == host or (name.startswith("*.") and "." in host and name[2:] == host.partition(".")[2])


def _moment(now: int) -> datetime:
    return datetime.fromtimestamp(now / 1000, UTC)


def _first(leaf: x509.Certificate) -> int:
    return int(leaf.not_valid_before_utc.timestamp() * 1000)


def _last(leaf: x509.Certificate) -> int:
    return int(leaf.not_valid_after_utc.timestamp() * 1000)


def _issuer(leaf: x509.Certificate) -> str:
    attributes = {one.oid: str(one.value) for one in leaf.issuer}
    parts = (attributes.get(x509.NameOID.ORGANIZATION_NAME), attributes.get(x509.NameOID.COMMON_NAME))
    return " ".join(one for one in parts if one)[:200] or "nobody named"


def make_key() -> bytes:
    """Return a new EC key on P-256 as PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_request(key: bytes, host: str) -> bytes:
    """Return a certificate signing request (DER) for one host by a key of `make_key`."""
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    return (
        builder.add_extension(names, critical=False)
        .sign(private, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
