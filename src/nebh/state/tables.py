"""The controller's tables. Times are Unix ms; envelopes are the signed bytes, untouched."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint

METADATA = MetaData()


def _number() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=True)


publication = Table(
    "publication",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("snapshot", Integer, nullable=False),
    Column("timestamp", LargeBinary, nullable=False),
    Column("trusted", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
)

deployments = Table(
    "deployments",
    METADATA,
    _number(),
    Column("service", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("phase", Text, nullable=False),
    Column("nonce", Text, nullable=False, unique=True),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("reasons", Text, nullable=False),
    Index("deployments_by_service", "service", "id"),
    sqlite_autoincrement=True,
)

assignments = Table(
    "assignments",
    METADATA,
    Column("node_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("deployment", Integer, nullable=False),
    Column("service", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("outcome", Text, nullable=False),
    Index("assignments_by_nonce", "nonce"),
)

orders = Table(
    "orders",
    METADATA,
    _number(),
    Column("nonce", Text, nullable=False, unique=True),
    Column("at", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("nodes", Text, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

receipts = Table(
    "receipts",
    METADATA,
    _number(),
    Column("node_id", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    UniqueConstraint("node_id", "digest"),
    Index("receipts_by_nonce", "nonce", "id"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    METADATA,
    _number(),
    Column("node_id", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("service", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("node_id", "number", "at"),
    Index("events_by_service", "service", "id"),
    sqlite_autoincrement=True,
)

nodes = Table(
    "nodes",
    METADATA,
    Column("node_id", Text, primary_key=True),
    Column("last_seen", BigInteger, nullable=False),
    Column("report", LargeBinary, nullable=False),
)

history = Table(
    "history",
    METADATA,
    _number(),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)

mail = Table(
    "mail",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("cursor", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("gap", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("failing_since", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    Column("told", Integer, nullable=False),
    Column("sent_at", BigInteger, nullable=False),
)

door_tokens = Table(
    "door_tokens",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("secret", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("push", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

door_links = Table(
    "door_links",
    METADATA,
    Column("repository", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("media_type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

door_tags = Table(
    "door_tags",
    METADATA,
    Column("repository", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
)
