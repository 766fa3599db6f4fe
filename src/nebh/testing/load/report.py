"""Rows as compressed CSV files."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Protocol

from nebh.testing.load.generator import Row

COLUMNS = tuple(field.name for field in fields(Row))


class RowSink(Protocol):
    """Takes one row."""

    def __call__(self, row: Row, /) -> None: ...


@contextmanager
def open_report(path: Path) -> Iterator[RowSink]:
    """Give a function that appends rows to a new `.csv.gz` file."""
    with gzip.open(path, "wt", encoding="utf-8", newline="", compresslevel=3) as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)

        def add(row: Row, /) -> None:
            times = (f"{row.sent:.6f}", f"{row.received:.6f}")
            table.writerow((*times, *astuple(row)[2:-1], f"{row.latency_ms:.3f}"))

        yield add


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows."""
    with open_report(path) as add:
        for row in rows:
            add(row)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [
            Row(
                float(row["sent"]),
                float(row["received"]),
                int(row["connection"]),
                row["kind"],
                row["method"],
                int(row["status"]),
                row["version"],
                row["error"],
                float(row["latency_ms"]),
            )
            for row in csv.DictReader(file)
        ]
