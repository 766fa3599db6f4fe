"""What a measurement leaves: raw rows, and figures that anybody can compute again from them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nebh.testing.bench import sampling

Row = dict[str, Any]
STATISTICS = ("median", "p10", "p99", "max", "sum", "ratio", "bound")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number. table, columns, where: which rows it is of; statistic: see STATISTICS (ratio: median of first column
    / second; bound: 95 % upper bound of sum of the first / sum of the second). low, high: 95 % interval. limit: what it
    must not exceed (None: nothing was asked), aim: what was hoped for."""

    name: str
    what: str
    unit: str
    table: str
    columns: tuple[str, ...]
    statistic: str = "median"
    where: Mapping[str, str] = field(default_factory=dict)
    limit: float | None = None
    aim: float | None = None
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    count: int = 0

    @property
    def holds(self) -> bool:
        """Tell whether the limit holds."""
        return self.limit is None or self.value <= self.limit


def evaluate(statistic: str, columns: Sequence[str], rows: Sequence[Row]) -> tuple[float, float, float, int]:
    """Return (value, low, high, number of values) of a statistic over rows; a row without the columns is left out."""
    found = [
        tuple(float(row[one]) for one in columns) for row in rows if all(row.get(one, "") != "" for one in columns)
    ]
    if statistic == "bound":
        failed, tries = (sum(one[place] for one in found) for place in (0, 1))
        value = sampling.upper_bound(int(failed), int(tries))
        return value, 0.0, value, int(tries)
    values = sampling.ratios([(one[0], one[1]) for one in found]) if statistic == "ratio" else [one[0] for one in found]
    if not values:
        return math.nan, math.nan, math.nan, 0
    if statistic in ("max", "sum"):
        value = max(values) if statistic == "max" else sum(values)
        return value, value, value, len(values)
    share = {"median": 0.5, "ratio": 0.5, "p10": 0.1, "p99": 0.99}[statistic]
    low, high = sampling.bootstrap(values, lambda some: sampling.quantile(some, share))
    return sampling.quantile(values, share), low, high, len(values)


@dataclass(kw_only=True)
class Record:
    """Everything of one measurement. skipped: what was not measured, and why; facts: versions, flags, load."""

    name: str
    title: str
    tables: dict[str, list[Row]] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, table: str, **row: Any) -> None:
        """Keep a raw row."""
        self.tables.setdefault(table, []).append(row)

    def figure(
        self, name: str, what: str, *, unit: str = "ms", table: str, columns: Sequence[str], **more: Any
    ) -> None:
        """Compute a figure from rows kept before, and keep it. Without a single value there is none."""
        wish = Figure(name=name, what=what, unit=unit, table=table, columns=tuple(columns), **more)
        made = computed(wish, self.tables.get(table, []))
        if made.count:
            self.figures.append(made)


def computed(figure: Figure, rows: Sequence[Row]) -> Figure:
    """Return the figure with its value, from the rows of its table."""
    chosen = [row for row in rows if all(str(row.get(key, "")) == value for key, value in figure.where.items())]
    value, low, high, count = evaluate(figure.statistic, figure.columns, chosen)
    plain = {**asdict(figure), "value": _short(value), "low": _short(low), "high": _short(high), "count": count}
    return Figure(**{**plain, "columns": tuple(plain["columns"])})


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def write_record(record: Record, folder: Path) -> None:
    """Write `<name>.json` and `<name>.<table>.csv.gz`."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in record.tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        data = gzip.compress(text.getvalue().encode(), mtime=0)
        (folder / f"{record.name}.{table}.csv.gz").write_bytes(data)
    plain = {key: value for key, value in asdict(record).items() if key != "tables"}
    plain["rows"] = {table: len(rows) for table, rows in record.tables.items()}
    (folder / f"{record.name}.json").write_text(json.dumps(plain, indent=1) + "\n")


def read_record(path: Path) -> Record:
    """Read `<name>.json` and its tables."""
    plain = json.loads(path.read_text())
    figures = [Figure(**{**one, "columns": tuple(one["columns"])}) for one in plain["figures"]]
    tables: dict[str, list[Row]] = {}
    for table in plain.pop("rows"):
        with gzip.open(path.with_name(f"{plain['name']}.{table}.csv.gz"), "rt", newline="") as file:
            tables[table] = list(csv.DictReader(file))
    return Record(**{**plain, "figures": figures, "tables": tables})
