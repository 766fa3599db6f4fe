"""Build the demo's images and specs: `python -m nebh.testing.demo_app --into build/demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nebh.model.errors import NebhError
from nebh.testing.demo_app.services import write_demo


def main() -> int:
    """Build, and print the spec files."""
    parser = argparse.ArgumentParser(prog="nebh.testing.demo_app", description=__doc__)
    parser.add_argument("--into", type=Path, default=Path("build/demo"))
    parser.add_argument("--specs", type=Path, default=Path("examples/demo"))
    args = parser.parse_args()
    try:
        made = write_demo(args.into, specs=args.specs, cache=args.into / "cache")
    except NebhError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_status
    for release, spec in made.items():
        print(f"{release}\t{spec}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
