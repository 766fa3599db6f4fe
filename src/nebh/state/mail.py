"""How far events have gone out by mail: one row, so that a restart loses none."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select

from nebh.model.mail import MailQueue
from nebh.state.tables import mail


def read_queue(connection: Connection) -> MailQueue | None:
    """Return the queue, None before mail was ever set up."""
    row = connection.execute(select(mail)).mappings().first()
    if row is None:
        return None
    values = {key: value for key, value in row.items() if key != "id"}
    return MailQueue(**{**values, "told": bool(values["told"])})


def write_queue(connection: Connection, queue: MailQueue) -> None:
    """Remember the queue."""
    connection.execute(delete(mail))
    connection.execute(insert(mail).values(id=1, **{**asdict(queue), "told": int(queue.told)}))


def drop_queue(connection: Connection) -> None:
    """Mail was switched off: what happens meanwhile is not told later."""
    connection.execute(delete(mail))
