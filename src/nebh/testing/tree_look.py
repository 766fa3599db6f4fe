"""What a tree of files is like, to be compared with another one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

Seen = dict[bytes, tuple[int, int, int, int, bytes]]
_MOST = 40 << 20


def observe_tree(place: Path) -> Seen:
    """Return (mode, owner, group, time of change in ns, end of the content and attributes) of every name below a folder."""
    found: Seen = {}
    for folder, folders, files in os.walk(os.fsencode(place)):
        for name in (*folders, *files):
            path = folder + b"/" + name
            state = os.lstat(path)
            more = b""
            if stat.S_ISREG(state.st_mode):
                with Path(os.fsdecode(path)).open("rb") as file:
                    more = file.read(_MOST)[-9000:] + repr(os.listxattr(path)).encode()
            elif stat.S_ISLNK(state.st_mode):
                more = os.readlink(path)
            times = state.st_mtime_ns if stat.S_ISREG(state.st_mode) else 0
            found[os.path.relpath(path, os.fsencode(place))] = (state.st_mode, state.st_uid, state.st_gid, times, more)
    return found
