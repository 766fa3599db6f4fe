"""The load generator as a program: ends by itself, or at SIGTERM and SIGINT; prints a JSON summary."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from nebh.testing.load.generator import Load, Mix, Row, Target, summarise
from nebh.testing.load.report import open_report


def main() -> int:
    """Run the load; exit 0 when nothing failed, else 1."""
    args = _parser().parse_args()
    address, _, port = args.target.rpartition(":")
    target = Target(
        address=address, port=int(port), host=args.host_header or address, path=args.path, post_path=args.post_path
    )
    mix = Mix(
        rate=args.rate, keepalive=args.keepalive, fresh=args.fresh, post_share=args.post_share, timeout=args.timeout
    )
    rows: list[Row] = []
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with open_report(Path(args.out or "/dev/null")) as add:

        def keep(row: Row) -> None:
            rows.append(row)
            add(row)

        load = Load(target, mix, sink=keep)
        load.start()
        ended.wait(args.seconds)
        load.stop()
    summary = {**summarise(rows), "reopened": load.reopened}
    sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if summary["failed"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nebh.testing.load", description=__doc__)
    parser.add_argument("--target", required=True, help="address:port")
    parser.add_argument("--host-header", default="", help="default: the address")
    parser.add_argument("--path", default="/")
    parser.add_argument("--post-path", default="/echo")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=150.0, help="requests per second, all connections together")
    parser.add_argument("--keepalive", type=int, default=8)
    parser.add_argument("--fresh", type=int, default=2)
    parser.add_argument("--post-share", type=float, default=0.34)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds until a request counts as lost")
    parser.add_argument("--out", default="", help="FILE.csv.gz")
    return parser


if __name__ == "__main__":
    sys.exit(main())
