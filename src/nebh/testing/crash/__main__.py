"""`python -m nebh.testing.crash --kills N [--seed S]`: kill, look, say what was found. Needs root."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from nebh.testing.crash.campaign import run_campaign
from nebh.testing.crash.site import VICTIMS, Site


def main() -> int:
    """Return 0 when everything held."""
    parser = argparse.ArgumentParser(prog="nebh.testing.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--out", default="", help="a file for the table")
    parser.add_argument("--victim", action="append", choices=VICTIMS, help="kill only these (may be repeated)")
    options = parser.parse_args()
    print(f"seed {options.seed}: the same kills again with --seed {options.seed}", flush=True)
    with Site(Path(f"/var/tmp/nt-{secrets.token_hex(3)}")) as site:
        site.begin()
        try:
            tally = run_campaign(
                site,
                kills=options.kills,
                seed=options.seed,
                say=lambda line: print(line, flush=True),
                victims=tuple(options.victim or VICTIMS),
            )
        except AssertionError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
    print(tally.table())
    if options.out:
        Path(options.out).write_text(tally.table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
