"""The executor's journal seen from outside: read beside a living executor or after its end, and judged."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from nebh.journal.accepted import Accepted
from nebh.journal.backups import Backups
from nebh.journal.database import Database
from nebh.journal.outbox import Outbox
from nebh.journal.volumes import Volumes
from nebh.journal.work import Work
from nebh.model.statement import Outcome, Receipt
from nebh.model.transaction import ENDED
from nebh.model.work import Role
from nebh.signing.statements import peek_statement


class _ReadOnly(Database):
    """A second connection that writes nothing: no checkpoint, no migration."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._then = []
        self._connection = sqlite3.connect(
            f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=20
        )


@dataclass(frozen=True)
class Journal:
    """The tables by their owners."""

    database: Database
    work: Work
    accepted: Accepted
    outbox: Outbox
    volumes: Volumes
    backups: Backups

    def states(self) -> dict[str, str]:
        """Return the state of the open transaction by service."""
        return {row.service: row.state.value for row in self.work.open_transactions()}

    def receipts(self) -> list[Receipt]:
        """Return all that are kept, oldest first."""
        rows = self.database.read("SELECT body FROM receipts ORDER BY number")
        return [peek_statement(bytes(body), "receipt", Receipt) for (body,) in rows]

    def outcomes(self, nonce: str) -> list[Outcome]:
        """Return what the receipts say of a command, oldest first."""
        rows = self.database.read("SELECT body FROM receipts WHERE nonce = ? ORDER BY number", nonce)
        return [peek_statement(bytes(body), "receipt", Receipt).outcome for (body,) in rows]


@contextlib.contextmanager
def open_journal(path: Path, *, alone: bool = False) -> Iterator[Journal]:
    """Read the journal. alone: no executor runs; opened as the next one would open it, which may write."""
    database = Database(path) if alone else _ReadOnly(path)
    try:
        yield Journal(
            database, Work(database), Accepted(database), Outbox(database), Volumes(database), Backups(database)
        )
    finally:
        database.close()


@dataclass(frozen=True)
class Floors:
    """What only ever rises, as journalled at one instant. releases: newest accepted counter by service and epoch."""

    seq: int = 0
    roles: dict[str, int] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    releases: dict[tuple[str, int], int] = field(default_factory=dict)
    receipt: int = 0
    event: int = 0

    def lower_than(self, before: Floors) -> list[str]:
        """Return everything that is lower here than it was before."""
        found = [
            f"the floor {what} fell from {old} to {new}"
            for what, old, new in (
                ("seq", before.seq, self.seq),
                ("receipt", before.receipt, self.receipt),
                ("event", before.event, self.event),
            )
            if new < old
        ]
        for what, old, new in (
            ("role", before.roles, self.roles),
            ("snapshot", before.snapshots, self.snapshots),
        ):
            found += [
                f"the floor {what} {k} fell from {v} to {new.get(k)}" for k, v in old.items() if new.get(k, 0) < v
            ]
        for key, value in before.releases.items():
            if self.releases.get(key, 0) < value:
                found.append(f"the newest release of {key} fell from {value} to {self.releases.get(key)}")
        return found


def floors_of(journal: Journal) -> Floors:
    """Return the floors as they stand."""
    state = journal.accepted.state()
    receipt, event = journal.outbox.newest()
    releases: dict[tuple[str, int], int] = {}
    for one in state.releases:
        key = (one.service, one.epoch)
        releases[key] = max(releases.get(key, 0), one.counter)
    return Floors(
        seq=state.seq,
        roles={role: version for role, (version, _) in state.roles.items()},
        snapshots={source: snapshot for source, (snapshot, _) in state.sources.items()},
        releases=releases,
        receipt=receipt,
        event=event,
    )


def find_journal_faults(journal: Journal) -> list[str]:
    """Return what is wrong with the journal in itself, whatever was going on when it was written."""
    found = [f"sqlite: {row[0]}" for row in journal.database.read("PRAGMA quick_check") if row[0] != "ok"]
    return found + _chain_faults(journal) + _transaction_faults(journal)


def _chain_faults(journal: Journal) -> list[str]:
    found = []
    rows = journal.database.read("SELECT number, body, chain FROM events ORDER BY number")
    for (number, _, chain), (later, body, link) in pairwise(rows):
        if later != number + 1 or hashlib.sha256(bytes.fromhex(chain) + bytes(body)).hexdigest() != link:
            found.append(f"event {later} does not follow event {number}")
    receipts = journal.database.read("SELECT number, body FROM receipts ORDER BY number")
    for (number, body), (later, next_body) in pairwise(receipts):
        receipt = peek_statement(bytes(next_body), "receipt", Receipt)
        if later != number + 1 or receipt.previous != hashlib.sha256(bytes(body)).hexdigest():
            found.append(f"receipt {later} does not follow receipt {number}")
    return found


def _transaction_faults(journal: Journal) -> list[str]:
    """A transaction is all or nothing: what serves is what the last committed one left."""
    found = []
    for service in journal.work.services():
        rows = journal.work.instances(service.service)
        serving = {(one.epoch, one.counter) for one in rows if one.role is Role.SERVING}
        current = journal.work.open_transaction(service.service)
        if len(serving) > 1:
            found.append(f"{service.service}: mixed releases serve: {sorted(serving)}")
        allowed = {(service.epoch, service.counter)}
        if current is not None:
            allowed.add((current.epoch, current.to_counter))
        if serving - allowed:
            found.append(f"{service.service}: {sorted(serving)} serves, the journal means {sorted(allowed)}")
        for one in rows:
            owner = journal.database.read("SELECT state FROM transactions WHERE id = ?", one.txn)
            if one.role is Role.OLD and current is None:
                found.append(f"{one.id} is the old side of no open transaction")
            if one.role is Role.SERVING and current is None and owner and owner[0][0] not in _LEGITIMATE:
                found.append(f"{one.id} serves and its transaction is {owner[0][0]}")
    return found + _committed_faults(journal)


_LEGITIMATE = {"COMMITTED"}


def _committed_faults(journal: Journal) -> list[str]:
    """What a receipt acknowledged stands in the journal: they were one commit."""
    found = []
    for row in journal.work.history(limit=10):
        if not row.nonce:
            continue
        said = journal.outcomes(row.nonce)
        if row.state in ENDED and said and row.state.value == "COMMITTED" and Outcome.COMMITTED not in said:
            ended_as = {Outcome.STOPPED, Outcome.REMOVED}
            if not ended_as & set(said):
                found.append(f"transaction {row.id} is committed and no receipt says so: {said}")
    return found


def receipts_from_poll(batch: list[list[object]]) -> list[Receipt]:
    """Return the receipts in an answer of the executor to a poll."""
    return [peek_statement(base64.b64decode(str(body)), "receipt", Receipt) for _, body in batch]
