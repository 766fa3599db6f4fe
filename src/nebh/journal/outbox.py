"""What this node has said: signed receipts and events, each chained to the one before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from nebh.journal.database import Database
from nebh.model.event import Event
from nebh.wire import codec

KEPT_EVENTS = 5_000
KEPT_RECEIPTS = 2_000


class Outbox:
    """Receipts and events. Numbers rise by one; the hash chain over events is the node's audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_event(self, make: Callable[[int], Event]) -> Event:
        """Journal the event that `make` gives for its number."""
        with self._database.atomically():
            rows = self._database.read("SELECT number, chain FROM events ORDER BY number DESC LIMIT 1")
            number, chain = rows[0] if rows else (0, "0" * 64)
            event = make(int(number) + 1)
            body = codec.encode(event)
            link = hashlib.sha256(bytes.fromhex(chain) + body).hexdigest()
            self._database.write(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?)", event.number, event.at, event.service, body, link
            )
            if event.number % 256 == 0:
                self._database.write("DELETE FROM events WHERE number <= ?", event.number - KEPT_EVENTS)
            return event

    def audit_head(self) -> str:
        """Return the hex SHA-256 over all events so far."""
        rows = self._database.read("SELECT chain FROM events ORDER BY number DESC LIMIT 1")
        return str(rows[0][0]) if rows else "0" * 64

    def add_receipt(self, make: Callable[[int, str], bytes], *, nonce: str) -> int:
        """Journal the signed receipt that `make` gives for (its number, hex SHA-256 of the one before)."""
        with self._database.atomically():
            rows = self._database.read("SELECT number, body FROM receipts ORDER BY number DESC LIMIT 1")
            number = int(rows[0][0]) + 1 if rows else 1
            previous = hashlib.sha256(bytes(rows[0][1])).hexdigest() if rows else "0" * 64
            self._database.write("INSERT INTO receipts VALUES (?, ?, ?)", number, nonce, make(number, previous))
            if number % 256 == 0:
                self._database.write("DELETE FROM receipts WHERE number <= ?", number - KEPT_RECEIPTS)
            return number

    def receipts_after(self, number: int, *, limit: int = 100) -> tuple[tuple[int, bytes], ...]:
        """Return (number, envelope) of receipts newer than `number`."""
        rows = self._database.read(
            "SELECT number, body FROM receipts WHERE number > ? ORDER BY number LIMIT ?", number, limit
        )
        return tuple((n, bytes(body)) for n, body in rows)

    def events_after(self, number: int, *, limit: int = 200) -> tuple[Event, ...]:
        """Return events newer than `number`."""
        rows = self._database.read("SELECT body FROM events WHERE number > ? ORDER BY number LIMIT ?", number, limit)
        return tuple(codec.decode(bytes(body), Event, what="a journalled event") for (body,) in rows)

    def newest(self) -> tuple[int, int]:
        """Return (newest receipt, newest event) numbers, 0 when there is none."""
        receipt = self._database.read("SELECT COALESCE(MAX(number), 0) FROM receipts")[0][0]
        event = self._database.read("SELECT COALESCE(MAX(number), 0) FROM events")[0][0]
        return int(receipt), int(event)
