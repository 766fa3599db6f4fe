"""What a node has of ACME authorities: certificates with their keys, by host, and the accounts they were asked by.

Keys lie here as node keys lie beside it: in a folder that is root's alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nebh.journal.database import Database

_COLUMNS = "host, directory, pem, not_before, not_after, issuer, obtained_at, next_key, failures, next_try, problem"


@dataclass(frozen=True, kw_only=True)
class OwnCertificate:
    """pem: chain and key, b"" = none yet; times: Unix ms; next_key: PEM of the key that is being asked for, kept until its
    certificate came; failures: tries in a row that failed, problem: the last one's words, next_try: not before then."""

    host: str
    directory: str
    pem: bytes = field(default=b"", repr=False)
    not_before: int = 0
    not_after: int = 0
    issuer: str = ""
    obtained_at: int = 0
    next_key: bytes = field(default=b"", repr=False)
    failures: int = 0
    next_try: int = 0
    problem: str = ""


class Certificates:
    """Tables `certificates` and `acme_accounts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, host: str) -> OwnCertificate | None:
        """Return what there is for a host."""
        rows = self._database.read(f"SELECT {_COLUMNS} FROM certificates WHERE host = ?", host)
        names = _COLUMNS.split(", ")
        return OwnCertificate(**dict(zip(names, rows[0], strict=True))) if rows else None

    def put(self, one: OwnCertificate) -> None:
        """Keep what is known of a host now. Durable on return."""
        values = tuple(getattr(one, name) for name in _COLUMNS.split(", "))
        marks = ", ".join("?" * len(values))
        self._database.write(f"INSERT OR REPLACE INTO certificates ({_COLUMNS}) VALUES ({marks})", *values)

    def forget(self, keep: set[str], *, now: int) -> None:
        """Drop what expired before `now` (Unix ms) for hosts that nobody declares any more."""
        for (host,) in self._database.read("SELECT host FROM certificates WHERE not_after < ?", now):
            if host not in keep:
                self._database.write("DELETE FROM certificates WHERE host = ?", host)

    def account(self, directory: str, make: Callable[[], bytes]) -> bytes:
        """Return the key (PEM) of this node's account at an authority, made at the first call."""
        with self._database.atomically():
            rows = self._database.read("SELECT key FROM acme_accounts WHERE directory = ?", directory)
            if rows:
                return bytes(rows[0][0])
            key = make()
            self._database.write("INSERT INTO acme_accounts VALUES (?, ?)", directory, key)
            return key
