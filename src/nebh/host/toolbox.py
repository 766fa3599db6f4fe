"""Joining tools to a running container: its namespaces, our file system."""

from __future__ import annotations

import subprocess
from pathlib import Path

from nebh.host.run import environment
from nebh.model.errors import BadInput

_SCRIPT = (
    'mount --rbind "/proc/$1/root" "$2/target" && '
    'exec nsenter --target "$1" --net --ipc --uts --pid -- '
    'sh -c \'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"\' "$2" "${@:3}"'
)


def enter_toolbox(*, pid: int, tree: str, argv: tuple[str, ...]) -> int:
    """Run `argv` in `tree` as root, within a process's network, pid, ipc and uts namespaces, its files at /target.

    Mounts are made in a namespace of their own and go with it. Returns the exit status. Raises BadInput.
    """
    if not Path(tree).is_dir():
        raise BadInput(f"cannot use {tree} as tools: it is no folder", hint="unpack a root file system there")
    for name in ("proc", "target"):
        (Path(tree) / name).mkdir(exist_ok=True)
    done = subprocess.run(
        ("unshare", "--mount", "--propagation", "private", "--", "bash", "-c", _SCRIPT, "nebh", str(pid), tree, *argv),
        env=environment({"TERM": "xterm"}),
        check=False,
    )
    return done.returncode
