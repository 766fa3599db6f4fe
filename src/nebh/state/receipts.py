"""Nodes' signed receipts, untouched."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from nebh.state.tables import receipts


@dataclass(frozen=True, kw_only=True)
class StoredReceipt:
    """A receipt with the number it was stored under."""

    id: int
    node_id: str
    envelope: bytes


def add_receipt(connection: Connection, *, node_id: str, number: int, nonce: str, envelope: bytes, at: int) -> bool:
    """Store a receipt; False when these bytes were stored before."""
    digest = hashlib.sha256(envelope).hexdigest()
    known = select(receipts.c.id).where(receipts.c.node_id == node_id, receipts.c.digest == digest)
    if connection.execute(known).first() is not None:
        return False
    connection.execute(
        insert(receipts).values(
            node_id=node_id, number=number, digest=digest, nonce=nonce, received_at=at, envelope=envelope
        )
    )
    return True


def receipts_after(connection: Connection, *, cursor: int, nonce: str, limit: int) -> tuple[StoredReceipt, ...]:
    """Return receipts stored after `cursor`, oldest first; only those of `nonce` unless it is ""."""
    query = select(receipts).where(receipts.c.id > cursor).order_by(receipts.c.id).limit(limit)
    if nonce:
        query = query.where(receipts.c.nonce == nonce)
    return tuple(
        StoredReceipt(id=row.id, node_id=row.node_id, envelope=bytes(row.envelope)) for row in connection.execute(query)
    )


def newest_receipt(connection: Connection, *, node_id: str) -> int:
    """Return the number of the receipt of this node that was stored last, 0 when there is none."""
    newest = select(func.max(receipts.c.id)).where(receipts.c.node_id == node_id).scalar_subquery()
    return int(connection.execute(select(receipts.c.number).where(receipts.c.id == newest)).scalar() or 0)


def prune_receipts(connection: Connection, *, keep: int) -> None:
    """Keep the newest `keep` receipts."""
    newest = connection.execute(select(func.max(receipts.c.id))).scalar() or 0
    connection.execute(delete(receipts).where(receipts.c.id <= newest - keep))
