"""Signed lists of secrets as accepted, and the box of each that this node holds: sealed, as it came."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from nebh.journal.database import Database
from nebh.model.secret import SecretList, key_of
from nebh.model.trust import TrustedSet
from nebh.wire import codec

_LISTED, _HELD, _GIVEN = "secret", "box", "given"


@dataclass(frozen=True, kw_only=True)
class HeldBox:
    """A box that was opened here once. version: of the value in it."""

    version: int
    box: bytes

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the box."""
        return hashlib.sha256(self.box).hexdigest()


class Secrets:
    """Documents `secret/<service>/<name>` and `box/<service>/<name>`; nothing in them is readable without the key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, trusted: TrustedSet) -> None:
        """Keep the lists of a set that was accepted, and no others. Inside its commit."""
        known = self.listed()
        for key in known.keys() - trusted.secrets.keys():
            self._database.write("DELETE FROM documents WHERE name = ?", f"{_LISTED}/{key}")
        for key, one in trusted.secrets.items():
            if known.get(key) != one:
                self._put(f"{_LISTED}/{key}", one.version, codec.encode(one))

    def listed(self) -> dict[str, SecretList]:
        """Return the newest accepted lists by `service/name`."""
        rows = self._database.read("SELECT body FROM documents WHERE name LIKE 'secret/%'")
        found = [codec.decode(bytes(body), SecretList, what="an accepted list of a secret") for (body,) in rows]
        return {key_of(one.service, one.name): one for one in found}

    def held(self, key: str) -> HeldBox | None:
        """Return the box that is held of `service/name`."""
        rows = self._database.read("SELECT version, body FROM documents WHERE name = ?", f"{_HELD}/{key}")
        return HeldBox(version=rows[0][0], box=bytes(rows[0][1])) if rows else None

    def hold(self, key: str, held: HeldBox) -> None:
        """Keep a box that was opened, in the place of the one before. Durable on return."""
        self._put(f"{_HELD}/{key}", held.version, held.box)

    def given(self) -> dict[str, str]:
        """Return by instance which versions its files hold, as `note_given` was told."""
        rows = self._database.read("SELECT key, value FROM meta WHERE key LIKE 'given/%'")
        return {str(key).partition("/")[2]: str(value) for key, value in rows}

    def note_given(self, instance: str, versions: str) -> None:
        """Remember which versions an instance was given; "" = forget the instance."""
        if versions:
            self._database.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", f"{_GIVEN}/{instance}", versions)
        else:
            self._database.write("DELETE FROM meta WHERE key = ?", f"{_GIVEN}/{instance}")

    def forget(self, service: str) -> None:
        """Drop the boxes of a service that was removed."""
        self._database.write("DELETE FROM documents WHERE name LIKE ?", f"{_HELD}/{service}/%")

    def _put(self, name: str, version: int, body: bytes) -> None:
        self._database.write("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", name, version, body)
