"""The keystore for Java: the same certificates give the same bytes, and Java itself reads it."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nebh.images.declared.truststore import render_truststore


def certificate(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder(named, named, key.public_key(), x509.random_serial_number())
    dated = made.not_valid_before(start).not_valid_after(start + dt.timedelta(days=9999))
    return dated.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.skipif(shutil.which("keytool") is None, reason="keytool (Debian: openjdk-17-jre-headless) is missing")
def test_java_reads_what_it_should_trust_and_notices_damage(tmp_path):
    first, second = certificate("first root"), certificate("second root")
    store = render_truststore([b"# a comment\n" + first + second, second])
    assert store == render_truststore([second, first])
    (tmp_path / "cacerts").write_bytes(store)
    listed = list_store(tmp_path / "cacerts")
    assert listed.returncode == 0
    assert "contains 2 entries" in listed.stdout
    assert all(f"Owner: CN={name} root" in listed.stdout for name in ("first", "second"))
    assert "trustedCertEntry" in listed.stdout
    (tmp_path / "cacerts").write_bytes(store.replace(b"second root", b"sECond root"))
    assert list_store(tmp_path / "cacerts").returncode != 0


def list_store(path):
    argv = ["keytool", "-list", "-v", "-keystore", str(path), "-storepass", "changeit"]
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
