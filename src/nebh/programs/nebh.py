"""Entry point of `nebh`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit status."""
    try:
        from nebh.cli.main import main as run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # before a command had begun
        sys.exit(130)


if __name__ == "__main__":
    main()
