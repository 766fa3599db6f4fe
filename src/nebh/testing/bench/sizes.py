"""The table of sizes in docs/images.md, written from the newest results that have them."""

from __future__ import annotations

from pathlib import Path

from nebh.model.quantities import render_size
from nebh.testing.bench.page import RESULTS
from nebh.testing.bench.record import Record, read_record

PAGE = Path("docs/images.md")
BEGIN = "<!-- sizes: written by `make docs` from what `make bench` measured -->\n"
END = "<!-- end of sizes -->\n"
_ABOUT = {
    "static": "one C program",
    "python-web": "Flask and Waitress",
    "java": "the runtime of OpenJDK 17 and one class",
}
_MIB = 1 << 20


def newest_sizes(results: Path = RESULTS) -> tuple[Path, Record] | None:
    """Return the newest folder with sizes of all examples, and its record; None without one."""
    for path in sorted(results.glob("*/building.json"), reverse=True):
        record = read_record(path)
        if record.tables.get("examples") and not record.facts["quick"]:
            return path.parent, record
    return None


def render_sizes(record: Record, *, folder: str) -> str:
    """Return the table, smallest image first, and where it comes from."""
    date, rows = record.facts["date"], f"{folder}/{record.name}.examples.csv.gz"
    lines = [
        f"""Sizes as `make bench` built them on {date}, Debian 12; they move with Debian's updates (rows:
`{rows}`):
""",
        "| declaration | files | image | all sources |",
        "|---|---|---|---|",
    ]
    for row in sorted(record.tables["examples"], key=lambda one: float(one["size"])):
        name = row["example"]
        link = f"[{name}](../examples/images/{name}/image.yaml)" + (f": {_ABOUT[name]}" if name in _ABOUT else "")
        image, whole = (render_size(round(float(row[column]) * _MIB)) for column in ("size", "whole"))
        lines.append(f"| {link} | {row['files']} | {image} | {whole} |")
    return "\n".join(lines) + "\n"


def fill_page(text: str, results: Path = RESULTS) -> str:
    """Return the page with the newest table between its marks; as it is while nothing was measured. Raises ValueError
    when a mark is not there."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    found = newest_sizes(results)
    if found is None:
        return text
    folder, record = found
    return f"{text[:begin]}\n{render_sizes(record, folder=f'bench/results/{folder.name}')}\n{text[end:]}"
