"""Requests that fail while releases come and go: new connections, kept ones, slow bodies, WebSockets, events."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.model.service import Stop, Update
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Settings, StampNode, a_node
from nebh.testing.bench.streams import Streams
from nebh.testing.load import Load, Mix, Row, Target
from nebh.testing.node import GOOD, HOST

NAME = "requests"
TITLE = "Requests across updates and rollbacks"
DRAIN = 2.0
STOP = Stop(signal="TERM", grace=5000)
KEEP = Update(bake=100, checks=(GOOD,), drain=int(DRAIN * 1000))
TRIAL = Update(bake=600_000, checks=(GOOD,), drain=int(DRAIN * 1000))


class Tally:
    """Counts requests by kind without keeping them; keeps each that failed."""

    def __init__(self, record: Record) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._record = record

    def take(self, row: Row) -> None:
        """Count one request."""
        kind = f"{row.kind} {row.method}"
        self.counts[kind] += 1
        if row.error:
            self.failed[kind] += 1
            self._record.add("failures", kind=kind, at=row.sent, status=row.status, error=row.error)


def measure(settings: Settings, record: Record) -> None:
    """Fill the record. Full: at least 1,000,000 requests across 200 changes, or as many as `seconds` allow."""
    requests, changes = (20_000, 6) if settings.quick else (1_000_000, 200)
    tally = Tally(record)
    with a_node() as node:
        for version in ("v1", "v2"):
            node.add_image(version)
        node.assign(node.publish_version("v1", update=KEEP, stop=STOP))
        node.until(lambda: node.instances("serving") and node.quiet(), "v1 serves")

        def enter() -> None:
            enter_network(node.name)

        target = Target(address="127.0.0.1", port=node.http_port, host=HOST)
        load = Load(target, Mix(rate=1500, keepalive=8, fresh=4, timeout=20.0), sink=tally.take, enter=enter)
        streams = Streams(port=node.http_port, host=HOST, drain=DRAIN, enter=enter)
        load.start()
        streams.start()
        end = time.monotonic() + settings.seconds
        try:
            number = 0
            while time.monotonic() < end and (sum(tally.counts.values()) < requests or number < changes):
                _change(node, streams, record, number)
                number += 1
        finally:
            load.stop()
            streams.stop()
    for kind, count in sorted(tally.counts.items()):
        record.add("requests", kind=kind, requests=count, failed=tally.failed[kind])
    _count_streams(streams, record)
    _figures(record)


def enter_network(name: str) -> None:
    """Have the calling thread alone use a named network namespace, and go before what is measured."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -5)


def _change(node: StampNode, streams: Streams, record: Record, number: int) -> None:
    """Update to the other version and keep it, or go back while it is on trial; in turns."""
    back = number % 2 == 1
    version = "v2" if number % 4 < 2 else "v1"
    serving = node.instances("serving")[0]["counter"]
    node.assign(node.publish_version(version, update=TRIAL if back else KEEP, stop=STOP))
    began = time.monotonic()
    node.until(lambda: node.open_state() in ("CHECKING", "HEALTHY", ""), "it is cut over")
    streams.began.append(time.monotonic())
    if back:
        node.until(lambda: node.open_state() == "CHECKING", "it is on trial")
        node.assign(serving)
        node.until(lambda: node.open_state() == "", "it went back")
        streams.began.append(time.monotonic())
    node.settle()
    record.add(
        "changes",
        number=number,
        kind="rollback" if back else "update",
        changed=2 if back else 1,
        state=node.history()[0]["state"],
        seconds=time.monotonic() - began,
        pressure=machine.pressure(),
    )


def _count_streams(streams: Streams, record: Record) -> None:
    kinds = Counter(one.kind for one in streams.outcomes)
    failed = Counter(one.kind for one in streams.outcomes if one.error)
    for kind, count in sorted(kinds.items()):
        record.add("requests", kind=kind, requests=count, failed=failed[kind])
    for one in streams.outcomes:
        if one.error:
            record.add("failures", kind=one.kind, at=one.at, status=0, error=one.error)


def total(record: Record, name: str, what: str, column: str, *, table: str = "requests", **more: float | None) -> None:
    """Add a sum to the figures."""
    record.figure(name, what, unit="", table=table, columns=(column,), statistic="sum", **more)


def count_failures(record: Record) -> None:
    """Add what failed, and how large the true share may be, of the rows of `requests`."""
    total(record, "failed", "failed", "failed", limit=0.0)
    what = "95 % upper bound of the share that fails"
    columns = ("failed", "requests")
    record.figure("bound", what, unit="", table="requests", columns=columns, statistic="bound")


def _figures(record: Record) -> None:
    total(record, "requests", "requests, lines and events", "requests")
    total(record, "changes", "cut-overs meanwhile, forth and back", "changed", table="changes")
    count_failures(record)
    for row in record.tables["requests"]:
        record.figure(
            f"requests_{row['kind']}",
            f"of those: {row['kind']}",
            unit="",
            table="requests",
            columns=("requests",),
            statistic="sum",
            where={"kind": row["kind"]},
        )
