"""Run a command where containers can be made: `python -m nebh.testing.settled COMMAND...`.

Outside of a chroot it is the command alone. A fresh system is often entered by chroot, in which the kernel refuses what
containers need (`nebh.host.rooting`).
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Become the command given as arguments."""
    if is_root() and is_chrooted():
        settle_root()
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
