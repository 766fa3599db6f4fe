"""Entry point of `nebh-executor`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the executor and end the process with its exit status."""
    from nebh.executor.main import main as run
    from nebh.host.rooting import leave_chroot

    leave_chroot()  # before the first thread

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
