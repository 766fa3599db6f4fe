"""Runs measurements one after the other; a part that is missing on this machine is skipped with its reason."""

from __future__ import annotations

import argparse
import datetime
import importlib
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from nebh.model.errors import NebhError
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record, write_record
from nebh.testing.bench.stage import Settings

NAMES = (
    "cutover",
    "memory",
    "start",
    "status",
    "requests",
    "second",
    "deploy",
    "api",
    "floods",
    "verify",
    "images",
    "building",
    "config",
    "secrets",
    "volumes",
    "stateful",
)


def main() -> int:
    """Measure; exit 0 when every limit holds, 1 when one does not, 2 when something could not be measured at all."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that clouds are taken away
    settled = machine.calibrate()
    print(
        f"calibration: 1.2 times the work took {settled['ratio']} times as long [{settled['low']}, {settled['high']}]"
    )
    if not settled["ok"] and not options.quick:
        print(
            "cannot measure: this machine is too busy to tell 1.2 from other numbers; try again later", file=sys.stderr
        )
        return 2
    worst = 0
    for name in options.only or NAMES:
        worst = max(worst, _run(name, options, calibration=settled))
    return worst


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure speed and memory, as root.")
    parser.add_argument("--only", action="append", choices=NAMES, help="this measurement; may be given several times")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works")
    parser.add_argument("--seconds", type=float, default=240.0, help="how long one measurement begins new rounds")
    parser.add_argument("--volume-mib", type=int, default=0, help="size of the volumes; default 1024, with --quick 48")
    parser.add_argument("--into", type=Path, default=Path("build/bench"), help="folder for summaries and raw rows")
    return parser


def _settings(options: argparse.Namespace, folder: Path) -> Settings:
    return Settings(quick=options.quick, seconds=options.seconds, folder=folder, volume_mib=options.volume_mib)


def _run(name: str, options: argparse.Namespace, *, calibration: dict[str, object]) -> int:
    module = importlib.import_module(f"nebh.testing.bench.{name}")
    record = Record(name=name, title=module.TITLE)
    print(f"\n{module.TITLE}")
    begin, before = time.monotonic(), machine.load()
    try:
        with tempfile.TemporaryDirectory(prefix="nt-bench-", dir="/var/tmp") as folder:
            module.measure(_settings(options, Path(folder)), record)
    except (NebhError, AssertionError, OSError, TimeoutError) as error:
        traceback.print_exc()
        print(f"  not measured: {error}", file=sys.stderr)
        return 2
    record.facts |= {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "quick": options.quick,
        "seconds": round(time.monotonic() - begin, 1),
        "load_before": before,
        "load_after": machine.load(),
        "calibration": calibration,
        "machine": machine.describe(),
    }
    write_record(record, options.into)
    for figure in record.figures:
        limit = "" if figure.limit is None else f"  (at most {figure.limit:g}: {'holds' if figure.holds else 'MISSED'})"
        print(
            f"  {figure.what}: {figure.value:g} {figure.unit} [{figure.low:g}, {figure.high:g}] n={figure.count}{limit}"
        )
    for what, why in record.skipped.items():
        print(f"  skipped: {what}: {why}")
    return 0 if all(figure.holds for figure in record.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
