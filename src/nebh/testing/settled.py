"""Run a command where containers can be made: `python -m nebh.testing.settled COMMAND...`.

Outside of a chroot it is the command alone. A fresh system is often entered by chroot, in which the kernel refuses what
containers need (`nebh.host.rooting`).
"""

from __future__ import annotations

import sys
from typing import NoReturn

from nebh.host.rooting import become_settled


def main() -> NoReturn:
    """Become the command given as arguments."""
    become_settled(tuple(sys.argv[1:]))


if __name__ == "__main__":
    main()
