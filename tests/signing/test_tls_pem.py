"""Certificates as PEM: everything that must not reach a proxy is one clear sentence, and never holds a key."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from nebh.model.errors import BadInput, Refused
from nebh.signing.acme_account import MOST_SIGNATURES, Signer, thumbprint
from nebh.signing.tls_pem import accept_chain, make_key, make_request, read_bundle

NOW = datetime.datetime(2030, 1, 15, tzinfo=datetime.UTC)
AT = int(NOW.timestamp() * 1000)
PEM = serialization.Encoding.PEM


def key_pem(key: object, password: bytes = b"") -> bytes:
    wrap = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, wrap)  # type: ignore[attr-defined]


def certificate(
    key: object,
    *names: str,
    days: tuple[int, int] = (-5, 5),
    subject: str = "leaf",
    issuer: str = "leaf",
    by: object = None,
) -> bytes:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    built = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(7)
        .not_valid_before(NOW + datetime.timedelta(days=days[0]))
        .not_valid_after(NOW + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names] or [x509.DNSName("x")]), False)
    )
    signer = by or key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return built.sign(signer, algorithm).public_bytes(PEM)  # type: ignore[arg-type]


KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
GOOD = certificate(KEY, "a.test", "*.b.test")


def read(data: bytes, *hosts: str, now: int | None = AT) -> str:
    try:
        read_bundle(data, hosts=hosts, now=now, what="the secret web/tls")
    except BadInput as error:
        return error.message
    return ""


def test_what_is_right_is_written_anew() -> None:
    bundle = read_bundle(
        b"Bag Attributes\n" + key_pem(KEY) + b"junk\n" + GOOD, hosts=("a.test", "x.b.test"), now=AT, what="it"
    )
    assert bundle.pem == GOOD + key_pem(KEY)
    assert bundle.not_after == int((NOW + datetime.timedelta(days=5)).timestamp() * 1000)
    assert b"PRIVATE" not in repr(bundle).encode()
    assert read(GOOD + key_pem(KEY), "A.test".lower()) == ""
    assert read(certificate(KEY, "a.test", days=(-5, -1)) + key_pem(KEY), "a.test", now=None) == ""


RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: b"\x00\xff", "no key in it"),
        (lambda: b"x" * 100_000, "more than any certificate"),
        (lambda: GOOD, "no key in it"),
        (lambda: key_pem(KEY), "no certificate in it"),
        (lambda: GOOD + key_pem(KEY) + key_pem(OTHER), "2 keys in it"),
        (lambda: GOOD + key_pem(OTHER), "does not belong"),
        (lambda: GOOD + key_pem(KEY, b"pw"), "has a passphrase"),
        (lambda: GOOD + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "key cannot be read"),
        (lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + key_pem(KEY), "cannot be read"),
        (lambda: certificate(KEY, "a.test", days=(-5, -1)) + key_pem(KEY), "expired on 2030-01-14"),
        (lambda: certificate(KEY, "a.test", days=(1, 5)) + key_pem(KEY), "begins on 2030-01-16"),
        (lambda: certificate(KEY, "b.test") + key_pem(KEY), "is not for a.test, but for b.test"),
        (lambda: certificate(KEY, "*.test", "*.a.test") + key_pem(KEY), ""),
        (lambda: certificate(KEY, "*.a.test") + key_pem(KEY), "is not for a.test"),
        (lambda: GOOD + certificate(OTHER, subject="no", issuer="no") + key_pem(KEY), "not in order"),
        (lambda: certificate(OTHER, subject="up") + GOOD + key_pem(KEY), "does not belong"),
        (lambda: GOOD * 11 + key_pem(KEY), "at most 10"),
        (lambda: certificate(RSA, "a.test") + key_pem(RSA), ""),
        (lambda: certificate(ED, "a.test") + key_pem(ED), "neither EC nor RSA"),
    ],
)
def test_what_is_wrong_is_said(make: Callable[[], bytes], said: str) -> None:
    found = read(make(), "a.test")
    assert said in found
    assert bool(said) == bool(found)
    assert "PRIVATE" not in found


def test_more_than_the_proxy_can_take_is_refused() -> None:
    big = certificate(KEY, "a.test", *(f"{n:060}.test" for n in range(200)))
    assert "at most 15000 can be given" in read(big + key_pem(KEY), "a.test")


def test_an_authority_that_does_not_count_is_refused() -> None:
    key = make_key()
    leaf = certificate(serialization.load_pem_private_key(key, None), "a.test", issuer="ca", by=OTHER)
    with pytest.raises(BadInput, match="no authority that counts"):
        accept_chain(leaf, key=key, host="a.test", now=AT, authorities=GOOD, what="it")


def part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


ACCOUNT = make_key()


def signer() -> Signer:
    return Signer(account=ACCOUNT, host="a.test", email="me@a.test", request=make_request(make_key(), "a.test"))


def test_requests_are_signed_as_the_protocol_wants() -> None:
    made = signer()
    body = json.loads(made.sign("order", url="https://ca.test/new", nonce="abc", kid="https://ca.test/1"))
    assert json.loads(part(body["protected"])) == {
        "alg": "ES256",
        "kid": "https://ca.test/1",
        "nonce": "abc",
        "url": "https://ca.test/new",
    }
    assert json.loads(part(body["payload"])) == {"identifiers": [{"type": "dns", "value": "a.test"}]}
    raw = part(body["signature"])
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    private = serialization.load_pem_private_key(ACCOUNT, None)
    signed = f"{body['protected']}.{body['payload']}".encode()
    private.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))  # type: ignore[union-attr, call-arg]
    account = json.loads(made.sign("account", url="https://ca.test/a", nonce="abc", kid=""))
    jwk = json.loads(part(account["protected"]))["jwk"]
    text = json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()
    assert part(thumbprint(ACCOUNT)) == hashlib.sha256(text).digest()
    assert json.loads(part(account["payload"]))["contact"] == ["mailto:me@a.test"]
    csr = json.loads(
        part(json.loads(made.sign("finalize", url="https://c.t/f", nonce="a", kid="https://c.t/1"))["payload"])
    )
    names = x509.load_der_x509_csr(part(csr["csr"])).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["a.test"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "revoke"},
        {"kind": "keyChange"},
        {"kind": '{"identifiers":[]}'},
        {"url": "file:///etc/passwd"},
        {"url": 'https://a"\n'},
        {"nonce": "a b"},
        {"nonce": ""},
        {"kid": ""},
        {"kid": 7},
    ],
)
def test_nothing_else_is_signed(wrong: dict[str, str]) -> None:
    fields = {"kind": "order", "url": "https://ca.test/x", "nonce": "abc", "kid": "https://ca.test/1"}
    signer().sign(fields["kind"], url=fields["url"], nonce=fields["nonce"], kid=fields["kid"])
    fields |= wrong
    with pytest.raises(Refused):
        signer().sign(fields["kind"], url=fields["url"], nonce=fields["nonce"], kid=fields["kid"])


def test_signatures_end() -> None:
    made = signer()
    for _ in range(MOST_SIGNATURES):
        made.sign("get", url="https://ca.test/x", nonce="abc", kid="https://ca.test/1")
    with pytest.raises(Refused):
        made.sign("get", url="https://ca.test/x", nonce="abc", kid="https://ca.test/1")
