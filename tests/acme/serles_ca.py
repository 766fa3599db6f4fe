"""Runs serles-acme, a real ACME server, in an environment of its own: `serles_ca.py FOLDER PORT`.

Protocol, accounts, orders and the look at a host by HTTP-01 are its own. What signs is here, since its example back end
leaves the names out of certificates; FOLDER/control.json says how: {"life": seconds, "mode": "good" | ...}. Names below
`.test` are this machine.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
import time
import types
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

FOLDER = Path(sys.argv[1])
PEM = serialization.Encoding.PEM


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def make_authority(name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    built = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - datetime.timedelta(days=1))
        .not_valid_after(now() + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    return built.sign(key, hashes.SHA256()), key


CA, CA_KEY = make_authority("Test Authority")
OTHER, OTHER_KEY = make_authority("Nobody's Authority")


def sign(public, names: list[x509.GeneralName], life: int, *, by=(CA, CA_KEY), start: int = 0) -> bytes:
    authority, key = by
    begin = now() + datetime.timedelta(seconds=start)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(seconds=life))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return built.sign(key, hashes.SHA256()).public_bytes(PEM)


class Backend:
    """What serles-acme calls to sign."""

    def __init__(self, config: object) -> None:
        pass

    def sign(self, csr, subject_dn, names, email):
        wish = json.loads((FOLDER / "control.json").read_text())
        (FOLDER / "asked").open("a").write(f"{','.join(names)}\n")
        time.sleep(wish.get("slow", 0))
        public = x509.load_pem_x509_csr(csr.encode() if isinstance(csr, str) else csr).public_key()
        if wish["mode"] == "other-key":
            public = ec.generate_private_key(ec.SECP256R1()).public_key()
        if wish["mode"] == "other-name":
            names = ["evil.test"]
        if wish["mode"] == "garbage":
            return "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None
        by = (OTHER, OTHER_KEY) if wish["mode"] == "other-authority" else (CA, CA_KEY)
        leaf = sign(public, [x509.DNSName(one) for one in names], wish["life"], by=by, start=wish.get("start", 0))
        return (leaf + by[0].public_bytes(PEM)).decode(), None


def main() -> None:
    (FOLDER / "ca.pem").write_bytes(CA.public_bytes(PEM))
    door = ec.generate_private_key(ec.SECP256R1())
    import ipaddress

    own = sign(door.public_key(), [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], 86_400)
    (FOLDER / "door.pem").write_bytes(own)
    private = door.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (FOLDER / "door.key").write_bytes(private)
    (FOLDER / "config.ini").write_text(
        "[serles]\nbackend = nebh_signing:Backend\nsubjectNameTemplate = CN={SAN[0]}\n"
        f"database = sqlite:///{FOLDER}/serles.db\n"
    )
    module = types.ModuleType("nebh_signing")
    module.Backend = Backend  # type: ignore[attr-defined]
    sys.modules["nebh_signing"] = module
    os.environ["CONFIG"] = str(FOLDER / "config.ini")
    find = socket.getaddrinfo

    def getaddrinfo(host, *rest, **more):
        return find("127.0.0.1" if str(host).endswith(".test") else host, *rest, **more)

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    from serles import create_app
    from werkzeug.serving import run_simple

    run_simple(
        "127.0.0.1",
        int(sys.argv[2]),
        create_app(),
        threaded=True,
        ssl_context=(str(FOLDER / "door.pem"), str(FOLDER / "door.key")),
    )


if __name__ == "__main__":
    main()
