"""The controller's database: one SQLite file (WAL, synchronous FULL), used from one thread at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.pool import StaticPool

from nebh.model.errors import Broken

VERSION = "0003"


class Database:
    """An open database whose tables are of the version this program knows."""

    def __init__(self, path: Path) -> None:
        """Open; raises Broken when it cannot be read or its tables are of another version."""
        self._engine = create_engine(
            f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False, "timeout": 10}
        )
        event.listen(self._engine, "connect", _prepare)
        found = read_version(self._engine.connect())
        if found != VERSION:
            self.close()
            raise Broken(
                f"cannot use {path}: its tables are of version {found or 'none'}, this program's of {VERSION}",
                hint="run `nebh-controller migrate`",
            )

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: committed when the block ends, undone when it raises."""
        with self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()


def read_version(connection: Connection) -> str:
    """Return the version of the tables, "" for an empty database."""
    with connection:
        known = connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")).first()
        row = connection.execute(text("SELECT version_num FROM alembic_version")).first() if known else None
    return str(row[0]) if row else ""


def needs_migration(path: Path) -> bool:
    """Tell whether `path` is not there yet or of an older version than this program's."""
    if not path.exists():
        return True
    engine = create_engine(f"sqlite:///{path}")
    try:
        return read_version(engine.connect()) < VERSION
    finally:
        engine.dispose()


def _prepare(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000", "cache_size = -1024"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
