"""Mail: what a controller's settings say of it, and one mail as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nebh.model.event import Severity


class MailTls(StrEnum):
    """starttls: the connection becomes encrypted before anything is said. tls: it is from its first byte. none: neither."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class MailSettings:
    """Who gets mail of what. port 0: 587, with tls 465, with none 25. password_file: a file that holds the password
    alone; ca: PEM file of authorities, "" = the system's. least: events of this severity and above; also, never: kinds
    of events besides and excepted, `backup.*` for all that begin so. gap: seconds between two mails at least; while
    there is always something to tell it doubles, up to an hour."""

    host: str
    sender: str
    to: tuple[str, ...]
    port: int = 0
    tls: MailTls = MailTls.STARTTLS
    user: str = ""
    password_file: str = ""
    ca: str = ""
    least: Severity = Severity.WARNING
    also: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    gap: int = 60

    @property
    def real_port(self) -> int:
        """The port that is meant."""
        return self.port or {MailTls.STARTTLS: 587, MailTls.TLS: 465, MailTls.NONE: 25}[self.tls]


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """controller.json, beside the controller's database. mail: None = no mail goes out."""

    mail: MailSettings | None = None


@dataclass(frozen=True, kw_only=True)
class MailText:
    """A mail. id: the same for the same events, so that one sent twice is seen to be."""

    id: str
    subject: str
    body: str


@dataclass(frozen=True, kw_only=True)
class MailQueue:
    """What is left to be told. cursor: of the newest event that was mailed or is none for mail; next_at: not before,
    Unix ms; gap: seconds, now; tries: failures in a row, failing_since: Unix ms of the first of them; error: what the
    server said last, "" = it went well; told: it was said that mail does not go out; sent_at: Unix ms of the last mail."""

    cursor: int
    next_at: int = 0
    gap: int = 0
    tries: int = 0
    failing_since: int = 0
    error: str = ""
    told: bool = False
    sent_at: int = 0
