"""Handing a mail to a server that may be slow, broken or hostile: bounded in time and in what is read."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Final

from nebh.model.errors import BadInput, Refused, Unreachable
from nebh.model.mail import MailTls

PATIENCE: Final = 20.0
"""Seconds for one answer."""
DEADLINE: Final = 90.0
"""Seconds for all of it, however the server drips."""
LINES: Final = 64
"""Of one answer."""
SAID: Final = 300
"""Letters of an answer that are repeated to people."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where mail is handed in. ca: PEM file of authorities, "" = the system's; name: what we call ourselves."""

    host: str
    port: int
    tls: MailTls
    user: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    name: str = "nebh.invalid"
    deadline: float = DEADLINE


class _Bounded:
    """Reads one answer of the server: not more lines than an honest one has."""

    sock: Any

    def name_server(self, host: str) -> None:
        """Say whom the certificate is to be of: smtplib knows it only of servers that its constructor connects to."""
        self._host = host

    def getreply(self) -> tuple[int, bytes]:
        """As smtplib's own, which reads lines without end."""
        me: Any = self
        if me.file is None:
            me.file = me.sock.makefile("rb")
        lines: list[bytes] = []
        while True:
            line = me.file.readline(1025)
            if not line:
                me.close()
                raise smtplib.SMTPServerDisconnected("Connection unexpectedly closed")
            code = line[:3]
            if len(line) > 1024 or not code.isdigit() or len(lines) >= LINES:
                me.close()
                raise smtplib.SMTPServerDisconnected("what it says is no SMTP")
            lines.append(line[4:].strip(b" \t\r\n"))
            if line[3:4] != b"-":
                return int(code), b"\n".join(lines)


class _Plain(_Bounded, smtplib.SMTP):
    pass


class _Tls(_Bounded, smtplib.SMTP_SSL):
    pass


def send_mail(server: Server, message: EmailMessage, *, sender: str, to: tuple[str, ...]) -> dict[str, str]:
    """Hand one mail in; return the recipients that the server did not take, with its words. Raises Unreachable (try
    again), Refused (with the server's own words), BadInput for authorities that cannot be read."""
    place = f"{server.host}:{server.port}"
    try:
        with _connected(server) as smtp:
            refused = smtp.send_message(message, from_addr=sender, to_addrs=list(to))
    except smtplib.SMTPRecipientsRefused as error:
        words = "; ".join(f"{who}: {_said(server, code, text)}" for who, (code, text) in error.recipients.items())
        raise Refused(f"{place} takes mail for nobody of those named: {words}", rule="smtp") from error
    except smtplib.SMTPResponseException as error:
        raise Refused(f"{place} says {_said(server, error.smtp_code, error.smtp_error)}", rule="smtp") from error
    except smtplib.SMTPNotSupportedError as error:
        raise Refused(
            f"{place} cannot do that: {error}", rule="smtp", hint="another `mail.port` or `mail.tls`?"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise Refused(
            f"cannot trust {place}: {error.verify_message}",
            rule="smtp",
            hint="`mail.host` is the name in its certificate; `mail.ca` names authorities of your own",
        ) from error
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise Unreachable(f"cannot speak SMTP with {place}: {_clean(server, str(error))}") from error
    return {who: _said(server, code, text) for who, (code, text) in refused.items()}


@contextlib.contextmanager
def _connected(server: Server) -> Iterator[smtplib.SMTP]:
    context = _context(server.ca) if server.tls is not MailTls.NONE else None
    if server.tls is MailTls.TLS:
        smtp: _Plain | _Tls = _Tls(timeout=PATIENCE, local_hostname=server.name, context=context)
    else:
        smtp = _Plain(timeout=PATIENCE, local_hostname=server.name)
    late = threading.Timer(server.deadline, _cut, args=(smtp,))
    late.daemon = True
    late.start()
    try:
        smtp.name_server(server.host)
        code, words = smtp.connect(server.host, server.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, words)
        if server.tls is MailTls.STARTTLS:
            smtp.starttls(context=context)
        smtp.ehlo_or_helo_if_needed()
        if server.user:
            smtp.login(server.user, server.password)
        yield smtp
        with contextlib.suppress(smtplib.SMTPException, OSError):
            smtp.quit()  # it has the mail: whatever it says to this
    finally:
        late.cancel()
        smtp.close()


def _cut(smtp: smtplib.SMTP) -> None:
    """End a conversation that takes too long, whatever is being read."""
    with contextlib.suppress(OSError, AttributeError):
        socket.socket.shutdown(smtp.sock, socket.SHUT_RDWR)  # type: ignore[arg-type]


def _context(ca: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"cannot read the authorities in {ca}: {error}", hint="`mail.ca` names a PEM file") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _said(server: Server, code: int, words: bytes | str) -> str:
    text = words.decode(errors="replace") if isinstance(words, bytes) else words
    return f"{code} {_clean(server, text)}"


def _clean(server: Server, text: str) -> str:
    """The server's words without ours: one that says the password back must not bring it into an event."""
    own = [server.password, f"\0{server.user}\0{server.password}"] if server.password else []
    secrets = [server.password, *(base64.b64encode(one.encode()).decode() for one in own)] if own else []
    for one in secrets:
        text = text.replace(one, "***")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:SAID]
