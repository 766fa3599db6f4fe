"""Events of nodes and of the controller itself."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select

from nebh.model.event import Event
from nebh.state.tables import events
from nebh.wire import codec

CONTROLLER = "controller"


def add_event(connection: Connection, *, node_id: str, event: Event) -> bool:
    """Store an event; False when it was stored before. node_id: `controller` for its own."""
    known = select(events.c.id).where(
        events.c.node_id == node_id, events.c.number == event.number, events.c.at == event.at
    )
    if connection.execute(known).first() is not None:
        return False
    connection.execute(
        insert(events).values(
            node_id=node_id, number=event.number, at=event.at, service=event.service, body=codec.encode(event)
        )
    )
    return True


def events_after(connection: Connection, *, cursor: int, service: str, limit: int) -> tuple[tuple[int, Event], ...]:
    """Return (cursor, event) of events stored after `cursor`, oldest first; of all services when `service` is ""."""
    query = select(events.c.id, events.c.body).where(events.c.id > cursor).order_by(events.c.id).limit(limit)
    if service:
        query = query.where(events.c.service == service)
    return tuple(
        (row.id, codec.decode_loose(bytes(row.body), Event, what="a stored event")) for row in connection.execute(query)
    )


def latest_events(connection: Connection, *, service: str, limit: int) -> int:
    """Return the cursor after which the newest `limit` events lie."""
    query = select(events.c.id).order_by(events.c.id.desc()).limit(1).offset(limit)
    if service:
        query = query.where(events.c.service == service)
    return int(connection.execute(query).scalar() or 0)


def last_cursor(connection: Connection) -> int:
    """Return the cursor of the event that was stored last, 0 when there is none."""
    return int(connection.execute(select(func.max(events.c.id))).scalar() or 0)


def newest_event(connection: Connection, *, node_id: str) -> int:
    """Return the number of the event of this node that was stored last, 0 when there is none."""
    newest = select(func.max(events.c.id)).where(events.c.node_id == node_id).scalar_subquery()
    return int(connection.execute(select(events.c.number).where(events.c.id == newest)).scalar() or 0)


def prune_events(connection: Connection, *, keep: int) -> None:
    """Keep the newest `keep` events."""
    newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
    connection.execute(delete(events).where(events.c.id <= newest - keep))
