"""Entry point of `nebh-agent`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the agent and end the process with its exit status."""
    from nebh.agent.main import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
