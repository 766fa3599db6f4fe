"""Rehearsals under way: journalled before anything of them exists, forgotten once nothing of them is left."""

from __future__ import annotations

from typing import Final

from nebh.journal.database import Database
from nebh.model.rehearsal import RehearsalRow

_FIELDS: Final = "id, service, epoch, counter, replica, attempt, address, nonce, began_at"
_LAST: Final = "rehearsed/"


class Rehearsals:
    """The table of rehearsals, and when the schedule's last one was. Writes are durable on return."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def rows(self) -> tuple[RehearsalRow, ...]:
        """Return those that are under way, or were when the executor ended."""
        found = self.database.read(f"SELECT {_FIELDS} FROM rehearsals ORDER BY began_at, id")
        return tuple(RehearsalRow(**dict(zip(_FIELDS.split(", "), row, strict=True))) for row in found)

    def add(self, row: RehearsalRow) -> None:
        """Journal one before anything of it exists."""
        names = _FIELDS.split(", ")
        self.database.write(
            f"INSERT INTO rehearsals ({_FIELDS}) VALUES ({', '.join('?' * len(names))})",
            *(getattr(row, name) for name in names),
        )

    def forget(self, row: RehearsalRow) -> None:
        """Nothing of it is left."""
        self.database.write("DELETE FROM rehearsals WHERE id = ?", row.id)

    # the schedule

    def last(self, service: str) -> int:
        """Return when the schedule last had a service rehearsed, or first saw it, Unix ms; 0 = never."""
        found = self.database.read("SELECT value FROM meta WHERE key = ?", f"{_LAST}{service}")
        return int(found[0][0]) if found else 0

    def note_last(self, service: str, at: int) -> None:
        """Note that."""
        self.database.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", f"{_LAST}{service}", str(at))
