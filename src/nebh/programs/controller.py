"""Entry point of `nebh-controller`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the controller and end the process with its exit status."""
    from nebh.controller.main import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
