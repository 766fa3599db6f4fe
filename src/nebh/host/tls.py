"""TLS 1.3 with pinned certificates: no names, no authorities, one hash that an operator signed."""

from __future__ import annotations

import hashlib
import ssl

from nebh.host.channels import Channel, open_tcp
from nebh.model.errors import BadInput, Refused, Unreachable


def require_tls13(context: ssl.SSLContext | None) -> None:
    """Let a server's context speak nothing older than TLS 1.3."""
    if context is not None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3


def connect_tls(*, host: str, port: int, pins: tuple[str, ...], timeout: float) -> Channel:
    """Connect to a server whose certificate's SHA-256 (hex, DER) is one of `pins`. Raises Unreachable, Refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin below is stronger than any authority
    plain = open_tcp(host=host, port=port, timeout=timeout)
    try:
        sock = context.wrap_socket(plain, server_hostname=None)
        certificate = sock.getpeercert(binary_form=True) or b""
    except OSError as error:
        plain.close()
        raise Unreachable(f"cannot speak TLS with {host}:{port}: {error}") from error
    found = hashlib.sha256(certificate).hexdigest()
    if found not in pins:
        sock.close()
        raise Refused(
            f"cannot trust {host}:{port}: its certificate has SHA-256 {found}, which is not pinned",
            rule="pin",
            hint="somebody may stand between; a new certificate is signed in by `nebh up` on its machine",
        )
    return Channel(sock, name=f"{host}:{port}")


def connect_public_tls(*, host: str, port: int, timeout: float, authorities: str = "") -> Channel:
    """Connect to a server whose certificate one of the system's authorities gave to `host`. authorities: PEM of those that
    count instead, "" = the system's. Raises Unreachable, BadInput."""
    try:
        context = ssl.create_default_context(cadata=authorities or None)
    except ssl.SSLError as error:
        raise BadInput(
            f"cannot read the authorities for {host}: {error}", hint="PEM certificates are needed"
        ) from error
    plain = open_tcp(host=host, port=port, timeout=timeout)
    try:
        return Channel(context.wrap_socket(plain, server_hostname=host), name=f"{host}:{port}")
    except OSError as error:
        plain.close()
        raise Unreachable(f"cannot speak TLS with {host}:{port}: {error}") from error
