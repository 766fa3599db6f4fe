"""Finding programs of ours that outlived the process that started them."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from nebh.host.processes import ProcessId, identify


def user_id(*names: str) -> tuple[int, int]:
    """Return (uid, gid) of the first of `names` that is a user of this machine. Raises KeyError for none."""
    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise KeyError(names[-1])


def runs_as(process: ProcessId, argv: tuple[str, ...], *, uid: int) -> bool:
    """Tell whether this very process is alive, was started with exactly `argv`, and belongs to `uid` or root."""
    folder = Path(f"/proc/{process.pid}")
    try:
        words = tuple(word.decode() for word in (folder / "cmdline").read_bytes().split(b"\0")[:-1])
        owner = folder.stat().st_uid
    except (OSError, UnicodeDecodeError):
        return False
    # anybody may start something that is called like ours: the owner tells
    return words == argv and owner in {0, uid} and identify(process.pid) == process


def find(argv: tuple[str, ...], *, uid: int) -> ProcessId | None:
    """Return the process that was started with exactly `argv` and belongs to `uid` or root; None for none."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = identify(int(name))
            if process is not None and runs_as(process, argv, uid=uid):
                return process
    return None
