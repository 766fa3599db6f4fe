"""What an act measured, and the two files that keep it."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nebh.host.files import write_atomic
from nebh.testing.load import Row, summarise

LEAST_REQUESTS = 2000
LEAST_RATE = 100.0
LEAST_KEEPALIVE, LEAST_FRESH = 8, 2
COLUMNS = ("act", "time", "connection", "kind", "method", "status", "version", "error", "received", "latency_ms")


@dataclass(kw_only=True)
class Act:
    """seconds: how long the load ran, outages apart. problems: what was to be proven and was not."""

    name: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def failed(self) -> int:
        """Requests that were not answered 200 with the expected body in time."""
        return sum(1 for row in self.rows if row.error)

    @property
    def ok(self) -> bool:
        """Tell whether the act came to its end and proved all it was to prove."""
        return self.ended and not self.problems

    def to_plain(self) -> dict[str, Any]:
        """Return the act as demo.json has it."""
        return {
            "name": self.name,
            "ok": self.ok,
            "requests": len(self.rows),
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "facts": {**self.facts, "load": load_facts(self.rows), "problems": self.problems},
        }


def load_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what describes a load: counts, shares, connections, latencies (ms)."""
    found = summarise(rows)
    connections = {kind: {row.connection for row in rows if row.kind == kind} for kind in ("keepalive", "fresh")}
    posts = sum(1 for row in rows if row.method == "POST")
    return {
        **{name: found[name] for name in ("versions", "kinds", "errors", "p50_ms", "p99_ms", "max_ms")},
        "connections": {kind: len(numbers) for kind, numbers in connections.items()},
        "post_share": round(posts / len(rows), 4) if rows else 0.0,
    }


def judge_load(act: Act) -> list[tuple[bool, str]]:
    """Return what every act must show about its load, as (is it so, in words)."""
    facts, count = load_facts(act.rows), len(act.rows)
    rate = count / act.seconds if act.seconds else 0.0
    kinds = facts["connections"]
    wrong = Counter(row.error for row in act.rows if row.error).most_common(3)
    said = "".join(f"; {number} x {error}" for error, number in wrong)
    return [
        (act.failed == 0, f"{act.failed} of {count} requests failed{said}"),
        (count >= LEAST_REQUESTS and rate >= LEAST_RATE, f"{count} requests, {rate:.0f} per second"),
        (
            kinds["keepalive"] >= LEAST_KEEPALIVE and kinds["fresh"] >= LEAST_FRESH and facts["post_share"] >= 1 / 3,
            f"{kinds['keepalive']} keep-alive and {kinds['fresh']} new connections, {facts['post_share']:.0%} POST",
        ),
    ]


def write_record(folder: Path, acts: Sequence[Act], *, name: str = "demo") -> None:
    """Write folder/<name>.json and the raw rows, folder/<name>/requests.csv.gz."""
    rows = folder / name / "requests.csv.gz"
    rows.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(rows, "wt", encoding="utf-8", newline="", compresslevel=3) as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for act in acts:
            for row in act.rows:
                who = (row.connection, row.kind, row.method, row.status, row.version, row.error)
                table.writerow((act.name, f"{row.sent:.6f}", *who, f"{row.received:.6f}", f"{row.latency_ms:.3f}"))
    document = {"version": 1, "acts": [act.to_plain() for act in acts]}
    write_atomic(folder / f"{name}.json", json.dumps(document, indent=1).encode() + b"\n", mode=0o644)
