"""How much memory the machine has."""

from __future__ import annotations

import os


def total_memory() -> int:
    """Return bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
