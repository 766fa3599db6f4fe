"""The executor's helpers are forked first, from a process that has loaded little: each page that a helper shares with
its parent and either of them writes later is resident twice. Nothing here imports more than `nebh.host` needs."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from nebh.host import namespaces
from nebh.host.disk import is_volatile
from nebh.host.launcher import fork_launcher
from nebh.host.layout import Layout
from nebh.host.mount_points import share_mount_point
from nebh.host.networker import fork_networker
from nebh.host.run import is_root
from nebh.host.worker import Worker
from nebh.model.errors import BadInput

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, kw_only=True)
class Helpers:
    """networker: in the host's network; launcher: in the executor's namespaces, starts containers."""

    networker: Worker
    launcher: Worker


def fork_helpers(layout: Layout) -> Helpers:
    """Check the machine, fork both helpers and leave the host's network. Must be called while the process has one
    thread. Raises BadInput."""
    _check_machine(layout)
    gc.collect()
    gc.freeze()  # a collection in a helper would write to every object it inherited
    networker = fork_networker()
    namespaces.unshare(CLONE_NEWNET)
    namespaces.private_mounts()
    share_mount_point(layout.volumes)  # nobody else sees them, and they are gone with the last that uses them
    return Helpers(networker=networker, launcher=fork_launcher())


def _check_machine(layout: Layout) -> None:
    if not is_root():
        raise BadInput("cannot run the executor as an ordinary user", hint="run it as root; `nebh up` does")
    layout.state.mkdir(parents=True, exist_ok=True)
    if is_volatile(layout.state):
        raise BadInput(
            f"cannot keep state in {layout.state}: it is in memory and gone after a reboot",
            hint="choose a folder on a disk with --state",
        )
