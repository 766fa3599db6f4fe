"""Backups of this node: what it made, what it is about, what an order has it fetch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from nebh.journal.database import Database
from nebh.model.backup import BackupRow
from nebh.wire import codec

_ROW: Final = "service, source, run, replica, volume, id, digest, bytes, taken_at, epoch, counter, version, listed"
_JOB: Final = "id, service, kind, run, nonce, source, percent, stage, begun_at, ended_at, failed"
KEPT_JOBS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to do with a store. kind: `backup`, `verify` or `list`; run: name of the backup; nonce: of the order, "" =
    by schedule; stage: `begun`, `resting` (the writer is asked to rest), `kept` (all snapshots are whole), `sent` (all are in the store),
    `ended`.
    ended_at: Unix ms, 0 = open; failed: why, "" = it did not."""

    id: int
    service: str
    kind: str
    run: str
    nonce: str
    source: str
    percent: int
    stage: str
    begun_at: int
    ended_at: int
    failed: str


class Backups:
    """The tables of backups. Reads give values; writes are durable on return."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def rows(self, service: str = "") -> tuple[BackupRow, ...]:
        """Return the backups of a service ("" = of all), oldest first."""
        found = self.database.read(
            f"SELECT {_ROW} FROM backups WHERE ? IN ('', service) ORDER BY taken_at, service, run, replica, volume",
            service,
        )
        return tuple(_backup(one) for one in found)

    def add(self, row: BackupRow) -> None:
        """Write down a backup. One that was written down when it was made stays, whatever a store lists."""
        verb = "INSERT OR IGNORE" if row.listed else "INSERT OR REPLACE"
        names = _ROW.split(", ")
        self.database.write(
            f"{verb} INTO backups ({_ROW}) VALUES ({', '.join('?' * len(names))})",
            *(getattr(row, name) for name in names),
        )

    def forget(self, identity: str) -> None:
        """The store does not keep it any more."""
        self.database.write("DELETE FROM backups WHERE id = ?", identity)

    # jobs

    def begin(self, *, service: str, kind: str, run: str, nonce: str, source: str, percent: int, now: int) -> int:
        """Journal a job; return its number."""
        with self.database.atomically():
            self.database.write(
                "DELETE FROM backup_jobs WHERE ended_at > 0 AND service = ? AND id NOT IN"
                " (SELECT id FROM backup_jobs WHERE service = ? ORDER BY id DESC LIMIT ?)",
                *(service, service, KEPT_JOBS),
            )
            return self.database.write(
                "INSERT INTO backup_jobs (service, kind, run, nonce, source, percent, stage, begun_at)"
                " VALUES (?, ?, ?, ?, ?, ?, 'begun', ?)",
                *(service, kind, run, nonce, source, percent, now),
            )

    def open_jobs(self) -> tuple[Job, ...]:
        """Return what is to be done, oldest first."""
        return self._jobs("WHERE ended_at = 0 ORDER BY id")

    def last_jobs(self, service: str) -> tuple[Job, ...]:
        """Return the backups of a service that have ended, newest first."""
        return self._jobs("WHERE ended_at > 0 AND kind = 'backup' AND service = ? ORDER BY id DESC", service)

    def knows(self, nonce: str) -> bool:
        """Tell whether an order has become a job."""
        return bool(self._jobs("WHERE nonce = ?", nonce))

    def _jobs(self, where: str, *values: object) -> tuple[Job, ...]:
        rows = self.database.read(f"SELECT {_JOB} FROM backup_jobs {where}", *values)
        return tuple(Job(**dict(zip(_JOB.split(", "), row, strict=True))) for row in rows)

    def set_stage(self, job: Job, stage: str) -> None:
        """Note how far a job has come."""
        self.database.write("UPDATE backup_jobs SET stage = ? WHERE id = ?", stage, job.id)

    def end(self, job: Job, *, failed: str, now: int) -> None:
        """A job has ended."""
        self.database.write(
            "UPDATE backup_jobs SET stage = 'ended', ended_at = ?, failed = ? WHERE id = ?", now, failed[:500], job.id
        )

    # what is to be fetched

    def wish(self, snapshot: str, rows: tuple[BackupRow, ...]) -> None:
        """Note what an order wants under the name of a snapshot."""
        with self.database.atomically():
            for one in rows:
                self.database.write(
                    "INSERT OR REPLACE INTO backup_wishes VALUES (?, ?, ?, ?, ?)",
                    *(one.service, snapshot, one.replica, one.volume, codec.encode(one)),
                )

    def wished(self, service: str, snapshot: str) -> tuple[BackupRow, ...]:
        """Return what is to be under the name of a snapshot; nothing for a snapshot that was not fetched."""
        rows = self.database.read(
            "SELECT body FROM backup_wishes WHERE service = ? AND snapshot = ? ORDER BY replica, volume",
            *(service, snapshot),
        )
        return tuple(codec.decode(one, BackupRow, what="a backup in the journal") for (one,) in rows)


def _backup(row: tuple[Any, ...]) -> BackupRow:
    fields = dict(zip(_ROW.split(", "), row, strict=True))
    return BackupRow(**{**fields, "listed": bool(fields["listed"])})
