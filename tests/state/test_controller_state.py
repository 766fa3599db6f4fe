"""The controller's tables on a real SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect

from nebh.model.api import DeploymentRequest, DeploymentState
from nebh.model.errors import Broken
from nebh.model.event import Event, Severity
from nebh.model.statement import Outcome, Phase
from nebh.state import deployments as store
from nebh.state import migrations
from nebh.state.database import Database, needs_migration
from nebh.state.events import add_event, events_after, newest_event, prune_events
from nebh.state.migrate import migrate
from nebh.state.orders import add_order, waiting_orders
from nebh.state.receipts import add_receipt, newest_receipt, prune_receipts, receipts_after
from nebh.state.tables import METADATA


@pytest.fixture
def database(tmp_path):
    migrate(tmp_path / "c.db")
    made = Database(tmp_path / "c.db")
    yield made
    made.close()


def test_migrations_make_exactly_the_tables(tmp_path, database):
    found = inspect(create_engine(f"sqlite:///{tmp_path / 'c.db'}"))
    assert set(found.get_table_names()) == {*METADATA.tables, "alembic_version"}
    for name, table in METADATA.tables.items():
        assert {column["name"] for column in found.get_columns(name)} == {column.name for column in table.columns}
        assert {index["name"] for index in found.get_indexes(name)} == {index.name for index in table.indexes}
    migrate(tmp_path / "c.db")


def test_a_database_of_an_older_program_is_brought_up(tmp_path):
    path = tmp_path / "old.db"
    assert needs_migration(path)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    command.upgrade(config, "0001")
    assert needs_migration(path)
    with pytest.raises(Broken):
        Database(path)
    migrate(path)
    assert not needs_migration(path)
    Database(path).close()


def test_an_empty_database_is_not_used(tmp_path):
    with pytest.raises(Broken) as broken:
        Database(tmp_path / "empty.db")
    assert "migrate" in broken.value.hint


def add(connection, service: str, nonce: str, nodes: tuple[str, ...], *, seq: int, phase: Phase = Phase.RUN) -> int:
    request = DeploymentRequest(counter=1, epoch=1, replicas=1, phase=phase, nonce=nonce)
    number = store.add_deployment(connection, service=service, request=request, by="op", at=1, reasons=("because",))
    for node in nodes:
        one = store.StoredAssignment(node_id=node, seq=seq, service=service, nonce=nonce, envelope=nonce.encode())
        store.add_assignment(connection, deployment=number, assignment=one)
    return number


def test_a_deployment_ends_when_all_its_nodes_have(database):
    with database.begin() as connection:
        add(connection, "web", "n1", ("a", "b"), seq=5)
        assert store.record_outcome(connection, node_id="a", nonce="n1", outcome=Outcome.COMMITTED, at=9)
        assert store.find_deployment(connection, nonce="n1").state is DeploymentState.OPEN
        assert not store.record_outcome(connection, node_id="c", nonce="n1", outcome=Outcome.COMMITTED, at=9)
        store.record_outcome(connection, node_id="b", nonce="n1", outcome=Outcome.ROLLED_BACK, at=9)
        found = store.find_deployment(connection, nonce="n1")
        assert (found.state, found.ended_at, found.reasons) == (DeploymentState.ROLLED_BACK, 9, ("because",))
        add(connection, "web", "n2", ("a",), seq=6, phase=Phase.PREPARE)
        store.record_outcome(connection, node_id="a", nonce="n2", outcome=Outcome.PREPARED, at=9)
        assert store.find_deployment(connection, nonce="n2").state is DeploymentState.DONE


def test_a_node_gets_the_newest_unanswered_assignment_of_each_service(database):
    with database.begin() as connection:
        add(connection, "web", "n1", ("a",), seq=5)
        add(connection, "db", "n2", ("a",), seq=6)
        add(connection, "web", "n3", ("a",), seq=7)
        assert [one.nonce for one in store.waiting_assignments(connection, node_id="a", after=0)] == ["n2", "n3"]
        store.record_outcome(connection, node_id="a", nonce="n3", outcome=Outcome.ACCEPTED, at=9)
        assert [one.nonce for one in store.waiting_assignments(connection, node_id="a", after=0)] == ["n2"]
        assert store.waiting_assignments(connection, node_id="a", after=6) == ()
        assert store.next_seq(connection, node_id="a", now=3) == 8
        assert store.next_seq(connection, node_id="a", now=300) == 300
        store.prune_assignments(connection, keep_after=100)
        assert store.next_seq(connection, node_id="a", now=3) == 8


def test_receipts_events_and_orders_are_stored_once(database):
    with database.begin() as connection:
        assert add_receipt(connection, node_id="a", number=4, nonce="n", envelope=b"x", at=1)
        assert not add_receipt(connection, node_id="a", number=4, nonce="n", envelope=b"x", at=1)
        assert add_receipt(connection, node_id="a", number=5, nonce="m", envelope=b"y", at=1)
        assert newest_receipt(connection, node_id="a") == 5
        assert newest_receipt(connection, node_id="b") == 0
        assert [one.envelope for one in receipts_after(connection, cursor=0, nonce="m", limit=9)] == [b"y"]
        prune_receipts(connection, keep=1)
        assert len(receipts_after(connection, cursor=0, nonce="", limit=9)) == 1
        event = Event(number=1, at=1, source="a", kind="k", severity=Severity.INFO, message="m", service="web")
        assert add_event(connection, node_id="a", event=event)
        assert not add_event(connection, node_id="a", event=event)
        assert newest_event(connection, node_id="a") == 1
        assert events_after(connection, cursor=0, service="web", limit=9) == ((1, event),)
        assert events_after(connection, cursor=0, service="db", limit=9) == ()
        prune_events(connection, keep=0)
        assert events_after(connection, cursor=0, service="", limit=9) == ()
        first = add_order(connection, nonce="o", nodes=("a",), not_after=50, envelope=b"o", at=1)
        assert add_order(connection, nonce="o", nodes=("a",), not_after=50, envelope=b"o", at=1) == first
        assert waiting_orders(connection, node_id="a", after=0, now=40) == ((first, b"o"),)
        assert waiting_orders(connection, node_id="a", after=0, now=60) == ()
        assert waiting_orders(connection, node_id="b", after=0, now=40) == ()
