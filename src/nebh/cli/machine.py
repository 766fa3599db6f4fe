"""The folders and node.json of one machine, and asking its programs."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nebh.cli.preflight import check_machine, ensure_user
from nebh.client.api_client import Client
from nebh.client.frame_channel import connect_frames
from nebh.client.transport import UnixTransport
from nebh.host.clock import SystemClock
from nebh.host.files import read_bounded, write_atomic
from nebh.host.layout import Layout
from nebh.host.program_tree import ProgramTree
from nebh.model.errors import BadInput, Failed, NebhError, Unreachable
from nebh.model.local import LocalConfig
from nebh.wire import codec

START_PATIENCE = 180.0


def layout_of(options: argparse.Namespace) -> Layout:
    """Return the folders that --state and --run name."""
    return Layout(state=Path(options.state).absolute(), run=Path(options.run).absolute())


def read_local(layout: Layout) -> LocalConfig | None:
    """Return node.json, None when there is none. Raises BadInput."""
    try:
        data = read_bounded(layout.node_config, limit=64 * 1024)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"cannot read {layout.node_config}: {error.strerror or error}") from error
    return codec.decode_loose(data, LocalConfig, what=str(layout.node_config))


def choose_config(layout: Layout, options: argparse.Namespace, *, parent: str) -> LocalConfig:
    """Return the machine's configuration: what node.json says, else the options; --listen is taken anew when given."""
    known = read_local(layout) or LocalConfig(
        name=node_name(),
        http_port=options.http_port,
        https_port=options.https_port,
        cgroup_parent=parent,
        controller=f"unix:{layout.controller_socket}",
    )
    fresh = replace(known, listen=options.listen or known.listen)
    check_listen(fresh.listen)
    return fresh


def check_listen(text: str) -> None:
    """Raises BadInput unless it is "" or ADDRESS:PORT."""
    address, _, port = text.rpartition(":")
    if text and (not address or not port.isdigit() or not 0 < int(port) < 65536):
        raise BadInput(f"cannot listen on {text!r}", hint="write ADDRESS:PORT, such as 0.0.0.0:7443 or [::]:7443")


def prepare_machine(layout: Layout, config: LocalConfig, *, tree: ProgramTree) -> None:
    """Check the machine, then make users, folders and node.json. Raises BadInput with everything that is missing."""
    check_machine(layout, config, tree=tree)
    for path in (layout.state, layout.run):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    for user in (config.agent_user, config.controller_user, config.ingress_user, config.dns_user):
        ensure_user(user)
    own(layout.controller, config.controller_user, 0o750)
    own(layout.controller_socket.parent, config.controller_user, 0o755)
    own(layout.agent, config.agent_user, 0o750)
    own(layout.agent_socket.parent, config.agent_user, 0o755)
    write_atomic(layout.node_config, codec.encode(config))


def own(path: Path, user: str, mode: int) -> None:
    """Make a folder that belongs to a user."""
    uid, gid = ensure_user(user)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    os.chown(path, uid, gid)


def node_name() -> str:
    """Return the host's name as a node's name."""
    text = "".join(letter if letter.isalnum() else "-" for letter in platform.node().lower().split(".")[0])
    text = "-".join(filter(None, text.split("-")))[:32].strip("-")
    return text if text[:1].isalpha() else f"node-{text}".strip("-")[:32]


def wait_for_programs(layout: Layout, *, pause: Callable[[float], None], ended: Callable[[], bool], where: str) -> None:
    """Wait until controller and executor answer. pause: waits that many seconds; where: what says why they do not.
    Raises Failed, KeyboardInterrupt."""
    clock = SystemClock()
    until = clock.monotonic() + START_PATIENCE
    problem: NebhError = Unreachable("nothing was asked yet")
    while clock.monotonic() < until and not ended():
        try:
            Client(UnixTransport(path=layout.controller_socket)).health()
            connect_frames(layout.executor_socket).close()
            connect_frames(layout.agent_socket).close()
        except NebhError as error:
            problem = error
            pause(0.1)
        else:
            return
    if ended():
        raise KeyboardInterrupt
    raise Failed(f"cannot start: {problem}", hint=f"{where} says why")
