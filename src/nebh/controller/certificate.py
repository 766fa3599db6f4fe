"""The certificate of the TCP door: self-signed, trusted by its hash alone; programs that want a name find `NAME`."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

from nebh.host.files import read_bounded, write_atomic

YEARS = 20
NAME = "nebh-controller"


def ensure_certificate(state: Path) -> tuple[Path, Path]:
    """Return (certificate, key) as PEM files, made on the first call."""
    certificate, key = state / "keys" / "tls.pem", state / "keys" / "tls.key"
    if not certificate.exists():
        _make(certificate, key)
    return certificate, key


def pin_of(certificate: Path) -> str:
    """Return the hex SHA-256 of a PEM certificate's DER bytes: what `settings.controller_tls_pins` lists."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    loaded = x509.load_pem_x509_certificate(read_bounded(certificate, limit=64 * 1024))
    return hashlib.sha256(loaded.public_bytes(Encoding.DER)).hexdigest()


def _make(certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(key, pem, mode=0o600)
    write_atomic(certificate, made.public_bytes(serialization.Encoding.PEM), mode=0o644)
