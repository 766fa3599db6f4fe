"""What nodes last said of themselves."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from nebh.model.api import NodeReport
from nebh.state.tables import nodes
from nebh.wire import codec


def record_node(connection: Connection, *, node_id: str, report: NodeReport | None, at: int) -> None:
    """Note that a node was heard at Unix ms `at`, with its report when it gave one."""
    values: dict[str, int | bytes] = {"last_seen": at}
    if report is not None:
        values["report"] = codec.encode(report)
    done = connection.execute(update(nodes).where(nodes.c.node_id == node_id).values(**values))
    if done.rowcount == 0:
        connection.execute(insert(nodes).values(**{"node_id": node_id, "report": b"", **values}))


def read_nodes(connection: Connection) -> dict[str, tuple[int, NodeReport | None]]:
    """Return (last seen, report) by node id."""
    return {
        row.node_id: (
            row.last_seen,
            codec.decode_loose(bytes(row.report), NodeReport, what="a stored report") if row.report else None,
        )
        for row in connection.execute(select(nodes))
    }
