"""Who asked the controller for what."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from nebh.model.api import HistoryEntry
from nebh.state.tables import history


def add_history(connection: Connection, *, at: int, by: str, what: str, service: str, detail: str) -> None:
    """Append an entry."""
    connection.execute(insert(history).values(at=at, by=by, what=what, service=service, detail=detail))


def read_history(connection: Connection, *, service: str, before: int, limit: int) -> tuple[HistoryEntry, ...]:
    """Return entries, newest first; `before` 0 begins at the newest."""
    query = select(history).order_by(history.c.id.desc()).limit(limit)
    if before:
        query = query.where(history.c.id < before)
    if service:
        query = query.where(history.c.service == service)
    return tuple(
        HistoryEntry(cursor=row.id, at=row.at, by=row.by, what=row.what, service=row.service, detail=row.detail)
        for row in connection.execute(query)
    )
