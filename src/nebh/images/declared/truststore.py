"""Certificates in PEM -> the keystore in which Java looks for its roots of trust (JKS, as JavaKeyStore.java reads it).

Written here because the same certificates must give the same bytes: PKCS #12 stores hold a random salt, and libraries
that write either form refuse some of Debian's roots for their serial numbers.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Iterable
from typing import Final

_HEAD: Final = struct.Struct(">III")
_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_PASSWORD: Final = "changeit"  # noqa: S105 - Java's own, known to everybody: only a checksum depends on it
_SEASONING: Final = b"Mighty Aphrodite"
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def render_truststore(parts: Iterable[bytes]) -> bytes:
    """Return the keystore with every certificate of `parts`, named by its SHA-256, dated 1970, each once."""
    found = {base64.b64decode(pem) for part in parts for pem in _PEM.findall(part)}
    named = sorted((hashlib.sha256(one).hexdigest(), one) for one in found)
    body = _HEAD.pack(_MAGIC, _VERSION, len(named))
    for name, one in named:
        body += struct.pack(">I", _TRUSTED) + _text(name) + bytes(8) + _text("X.509")
        body += struct.pack(">I", len(one)) + one
    return body + hashlib.sha1(_PASSWORD.encode("utf-16-be") + _SEASONING + body, usedforsecurity=False).digest()


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode("ascii")
