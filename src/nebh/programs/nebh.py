"""Entry point of `nebh`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit status."""
    try:
        from nebh.cli.main import main as run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # while it still loads, or between two steps: nothing was sent
        sys.stderr.write("\ninterrupted\n")
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
