"""A load generator that forgives nothing: every request it sends counts, none is tried again.

    load = Load(Target(address="127.0.0.1", port=80, host="web.example"), Mix(rate=150))
    load.start(); ...; load.stop(); failed = [row for row in load.rows if row.error]

As a program: `python -m nebh.testing.load --target 127.0.0.1:80 --host-header web.example --seconds 30 --out F.csv.gz`.
"""

from nebh.testing.load.generator import Load, Mix, Row, Target, summarise
from nebh.testing.load.report import read_rows, write_rows

__all__ = ["Load", "Mix", "Row", "Target", "read_rows", "summarise", "write_rows"]
