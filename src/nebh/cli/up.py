"""`nebh up` on this machine."""

from __future__ import annotations

import argparse
import os
import platform
import pwd
import signal
import sys
from pathlib import Path

from nebh.cli.founding import found_cloud, is_founded
from nebh.cli.output import Output
from nebh.cli.programs import children_of
from nebh.client.api_client import Client
from nebh.client.frame_channel import connect_frames
from nebh.client.transport import UnixTransport
from nebh.host.children import Children
from nebh.host.files import write_atomic
from nebh.host.layout import Layout
from nebh.host.run import is_root
from nebh.model.errors import BadInput, Failed, NebhError, Unreachable
from nebh.model.local import LocalConfig
from nebh.wire import codec

START_PATIENCE = 30.0


def up(options: argparse.Namespace, out: Output) -> int:
    """Make this machine (or a target) a cloud."""
    if options.target:
        from nebh.cli.remote import up_remote

        return up_remote(options, out)
    if not is_root():
        raise BadInput("cannot make this machine a cloud as an ordinary user", hint="sudo nebh up")
    layout = Layout(state=Path(options.state), run=Path(options.run))
    config = prepare_machine(layout, options)
    return foreground(layout, config, options, out)


def prepare_machine(layout: Layout, options: argparse.Namespace) -> LocalConfig:
    """Make folders and node.json; return the configuration."""
    for path in (layout.state, layout.run):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    if layout.node_config.exists():
        config = codec.decode_loose(layout.node_config.read_bytes(), LocalConfig, what=str(layout.node_config))
    else:
        config = LocalConfig(
            name=node_name(),
            http_port=options.http_port,
            https_port=options.https_port,
            cgroup_parent=options.cgroup_parent,
            controller=f"unix:{layout.controller_socket}",
        )
        write_atomic(layout.node_config, codec.encode(config))
    own(layout.controller, config.controller_user, 0o750)
    own(layout.controller_socket.parent, config.controller_user, 0o755)
    own(layout.agent, config.agent_user, 0o750)
    own(layout.agent_socket.parent, config.agent_user, 0o755)
    return config


def node_name() -> str:
    """Return the host's name as a node's name."""
    text = "".join(letter if letter.isalnum() else "-" for letter in platform.node().lower().split(".")[0])
    text = "-".join(filter(None, text.split("-")))[:32].strip("-")
    return text if text[:1].isalpha() else f"node-{text}".strip("-")[:32]


def own(path: Path, user: str, mode: int) -> None:
    """Make a folder that belongs to a user. Raises BadInput when there is no such user."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise BadInput(f"cannot find the user {user}", hint="`make install` makes the users of Nebh") from None
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def foreground(layout: Layout, config: LocalConfig, options: argparse.Namespace, out: Output) -> int:
    """Supervise the programs here until Ctrl-C; containers run on afterwards."""
    children = Children(children_of(layout, config), say=out.note)
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: ended.append(got))
    children.start()
    try:
        wait_for_programs(layout, children, ended)
        if not is_founded(layout):
            found_cloud(layout, config, options, out)
        out.say(f"{config.name} is up; Ctrl-C ends Nebh's programs here, what they started runs on")
        while not ended:
            children.watch(0.5)
    finally:
        children.stop()
    out.note("ended; containers, ingress and names run on. `nebh up` takes them over again, `nebh down` ends them")
    return 0


def wait_for_programs(layout: Layout, children: Children, ended: list[int]) -> None:
    """Wait until controller and executor answer. Raises Failed with where to look."""
    waited = 0.0
    problem: NebhError = Unreachable("nothing was asked yet")
    while waited < START_PATIENCE and not ended:
        try:
            Client(UnixTransport(path=layout.controller_socket)).health()
            connect_frames(layout.executor_socket).close()
        except NebhError as error:
            problem = error
            children.watch(0.1)
            waited += 0.1
        else:
            return
    if ended:
        raise KeyboardInterrupt
    raise Failed(f"cannot start: {problem}", hint=f"{layout.state}/*.log say why")
