"""`python -m nebh.testing.crash --kills N [--seed S] [--sites M]`: kill, look, say what was found. Needs root.

Most of a kill is waiting, so several clouds are killed beside each other: the first with seed S, the next with S + 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

from nebh.host.run import Command, Started, start
from nebh.testing.crash.campaign import Tally, run_campaign
from nebh.testing.crash.site import VICTIMS, Site

INTERRUPTED = 130


def main() -> int:
    """Return 0 when everything held."""
    options = _parser().parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background job begins with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        if options.tally:
            return _one(options)
        sites = max(1, min(options.sites, options.kills // 20))
        print(
            f"seed {options.seed}, {sites} clouds: the same kills again with --seed {options.seed} --sites {sites}",
            flush=True,
        )
        return _several(options, sites)
    except AssertionError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nebh.testing.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--sites", type=int, default=3, help="clouds beside each other (default 3; one per 20 kills)")
    parser.add_argument("--out", default="", help="a file for the table")
    parser.add_argument("--tally", default="", help=argparse.SUPPRESS)
    parser.add_argument("--victim", action="append", choices=VICTIMS, help="kill only these (may be repeated)")
    return parser


def _one(options: argparse.Namespace) -> int:
    """Kill in one cloud; leave what was counted in a file."""
    with Site(Path(f"/var/tmp/nt-{secrets.token_hex(3)}")) as site:
        site.begin()
        tally = run_campaign(
            site,
            kills=options.kills,
            seed=options.seed,
            say=lambda line: print(line, flush=True),
            victims=tuple(options.victim or VICTIMS),
        )
    Path(options.tally).write_bytes(pickle.dumps(tally))
    return 0


def _several(options: argparse.Namespace, sites: int) -> int:
    """Have each cloud killed by a process of its own; the first failure ends all."""
    victims = [word for victim in options.victim or () for word in ("--victim", victim)]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    running: list[Started] = []
    with tempfile.TemporaryDirectory(prefix="nt-") as folder:
        files = [Path(folder) / str(number) for number in range(sites)]
        try:
            for number, file in enumerate(files):
                kills = options.kills // sites + (number < options.kills % sites)
                words = ("--kills", str(kills), "--seed", str(options.seed + number), "--tally", str(file), *victims)
                argv = (sys.executable, "-P", "-m", "nebh.testing.crash", *words)
                running.append(start(Command(argv=argv, env=env), stdout=None, stderr=None))
            while any(one.poll() is None for one in running) and not any(one.poll() for one in running):
                time.sleep(0.2)
        finally:
            for one in running:
                with contextlib.suppress(ProcessLookupError):
                    one.send_signal(signal.SIGINT)
            ends = [one.wait() for one in running]
        if any(ends):
            return 1
        tally = Tally.sum(pickle.loads(file.read_bytes()) for file in files)
    print(tally.table())
    if options.out:
        Path(options.out).write_text(tally.table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
