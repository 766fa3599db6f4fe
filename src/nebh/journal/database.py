"""The connection: WAL, synchronous=FULL, one writer at a time, checkpoints kept off the switch path."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nebh.journal.schema import MIGRATIONS
from nebh.model.errors import Broken, Failed


class Database:
    """One SQLite file. Every method is safe from any thread; `atomically` makes several statements one commit."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._then: list[Callable[[], None]] = []
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=1000"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._migrate()
        except sqlite3.Error as error:
            raise Broken(
                f"cannot open the journal {path}: {error}",
                hint="containers run on; restore the file from a backup of this disk, or enrol the node anew",
            ) from error

    def _migrate(self) -> None:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise Broken(
                f"cannot use the journal: its version {version} is newer than this program's {len(MIGRATIONS)}",
                hint="install the program version that wrote it",
            )
        for number in range(version, len(MIGRATIONS)):
            self._connection.executescript(
                f"BEGIN IMMEDIATE;{MIGRATIONS[number]};PRAGMA user_version={number + 1};COMMIT;"
            )

    @contextmanager
    def atomically(self) -> Iterator[None]:
        """Make everything inside one durable commit; an exception undoes it all. May be nested."""
        with self._lock:
            if self._depth:
                yield
                return
            self._depth = 1
            try:
                self._begin()
                try:
                    yield
                except BaseException:
                    self._undo()
                    raise
                self._commit()
                then = self._then
            finally:
                self._depth, self._then = 0, []
        for call in then:
            call()

    def then(self, call: Callable[[], None]) -> None:
        """Run `call` once what is being written is durable and the lock is free: whoever it wakes reads the journal.
        At once when nothing is being written; never when the commit fails."""
        with self._lock:
            if self._depth:
                self._then.append(call)
                return
        call()

    def _begin(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise Failed(f"cannot write to the journal: {error}", hint="is the disk full or broken?") from error

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise Failed(f"cannot write to the journal: {error}", hint="is the disk full or broken?") from error

    def _undo(self) -> None:
        if self._connection.in_transaction:  # of a full or broken disk SQLite has undone it by itself
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def write(self, statement: str, *values: object) -> int:
        """Run one statement in a commit (the surrounding one if there is one); return the last row id."""
        with self.atomically():
            try:
                return self._connection.execute(statement, values).lastrowid or 0
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                raise Failed(f"cannot write to the journal: {error}", hint="is the disk full or broken?") from error

    def read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise Failed(f"cannot read the journal: {error}", hint="is the disk broken?") from error

    @property
    def changes(self) -> int:
        """A number that grows with every row that is written: what was computed from rows holds while it stays."""
        return self._connection.total_changes

    def checkpoint(self) -> None:
        """Fold the WAL into the file; called when nothing switches. Raises Failed."""
        with self._lock:
            if not self._depth:
                self.read("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
