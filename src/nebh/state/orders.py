"""Operators' orders on their way to the nodes, untouched."""

from __future__ import annotations

import json

from sqlalchemy import Connection, insert, select

from nebh.state.tables import orders


def add_order(
    connection: Connection, *, nonce: str, nodes: tuple[str, ...], not_after: int, envelope: bytes, at: int
) -> int:
    """Store an order once per nonce; returns its number. nodes: ids; not_after: Unix ms."""
    known = connection.execute(select(orders.c.id).where(orders.c.nonce == nonce)).scalar()
    if known is not None:
        return int(known)
    done = connection.execute(
        insert(orders).values(nonce=nonce, at=at, not_after=not_after, nodes=json.dumps(nodes), envelope=envelope)
    )
    return int(done.inserted_primary_key[0]) if done.inserted_primary_key else 0


def waiting_orders(connection: Connection, *, node_id: str, after: int, now: int) -> tuple[tuple[int, bytes], ...]:
    """Return (number, envelope) of a node's orders with numbers above `after` whose time has not passed."""
    query = select(orders).where(orders.c.id > after, orders.c.not_after >= now).order_by(orders.c.id)
    return tuple((row.id, bytes(row.envelope)) for row in connection.execute(query) if node_id in json.loads(row.nodes))
