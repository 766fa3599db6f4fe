"""The published set: which snapshot stands, its timestamp and what was learnt by verifying it."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from nebh.model.errors import Conflict
from nebh.model.trust import TrustedSet
from nebh.state.tables import publication
from nebh.wire import codec

_LIMIT = 64 << 20


def read_publication(connection: Connection) -> tuple[TrustedSet, bytes] | None:
    """Return (verified set, bytes of timestamp.json); None before the first publication."""
    row = connection.execute(select(publication.c.trusted, publication.c.timestamp)).first()
    if row is None:
        return None
    return codec.decode_loose(row.trusted, TrustedSet, what="the published set", limit=_LIMIT), bytes(row.timestamp)


def swap_publication(connection: Connection, *, base: int, trusted: TrustedSet, timestamp: bytes, at: int) -> None:
    """Let `trusted` stand in the place of snapshot version `base` (0: of nothing). Raises Conflict."""
    values = {
        "snapshot": trusted.versions["snapshot"],
        "timestamp": timestamp,
        "trusted": codec.encode(trusted),
        "at": at,
    }
    found = connection.execute(select(publication.c.snapshot)).scalar()
    if (found or 0) != base:
        raise Conflict(
            f"cannot publish: built upon snapshot {base}, but snapshot {found or 0} stands now",
            hint="fetch what was published meanwhile, look at it, and sign again",
        )
    if found is None:
        connection.execute(insert(publication).values(id=1, **values))
    else:
        connection.execute(update(publication).where(publication.c.id == 1).values(**values))
