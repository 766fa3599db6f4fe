"""A real mail server for tests: aiosmtpd with STARTTLS and a login, in a thread."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import ssl
import threading
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

USER, PASSWORD = "ops", "correct horse"


class MailServer:
    """Listens on 127.0.0.1. mails: what it took; refuse: its words for recipients that it does not know; logins: tries."""

    def __init__(self, certificate: Path, key: Path, *, tls: bool = True) -> None:
        """Begin. tls: nobody gets far without STARTTLS; else it has none and takes a password in the open."""
        server = importlib.import_module("aiosmtpd.smtp")
        self.mails: list[EmailMessage] = []
        self.refuse: dict[str, str] = {}
        self.logins = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

        def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
            self.logins += 1
            good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
            return server.AuthResult(success=good, handled=False)

        rules: dict[str, Any] = {"tls_context": context, "require_starttls": True} if tls else {}
        rules |= {"authenticator": check, "auth_required": True, "auth_require_tls": tls, "timeout": 30}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        serving = self._loop.create_server(lambda: server.SMTP(self, **rules), "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        """Take a recipient, or not."""
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        """Take a mail."""
        mail = message_from_bytes(envelope.content, policy=SMTP)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 taken"

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of `localhost`, its own authority, and its key below `folder`; return their paths."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return folder / "cert.pem", folder / "key.pem"
