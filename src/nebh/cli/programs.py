"""How the three programs of a machine are started: as supervised children here; `units.py` says it for systemd."""

from __future__ import annotations

import os
import pwd
from dataclasses import replace
from pathlib import Path

from nebh.host.children import Child, run_sandboxed
from nebh.host.layout import Layout
from nebh.host.program_tree import own_tree
from nebh.host.sandbox import Sandbox, reachable_tree
from nebh.model.errors import BadInput
from nebh.model.local import LocalConfig

NAMES = ("nebh-controller", "nebh-agent", "nebh-executor")


def words_of(name: str, layout: Layout, config: LocalConfig) -> tuple[str, ...]:
    """Return a program's arguments."""
    if name == "nebh-controller":
        listen = ("--listen", config.listen) if config.listen else ()
        return ("serve", "--state", str(layout.controller), "--run", str(layout.controller_socket.parent), *listen)
    if name == "nebh-agent":
        door = ("--door", str(layout.agent_socket), "--controller", config.controller)
        store = ("--store", str(layout.state), "--limit-rate", str(config.fetch_rate))
        return ("--state", str(layout.agent), "--run", str(layout.run), *door, *store)
    return ("--state", str(layout.state), "--run", str(layout.run), "serve")


def sandbox_of(name: str, layout: Layout, config: LocalConfig) -> Sandbox:
    """Return the confinement of agent or controller."""
    user = config.agent_user if name == "nebh-agent" else config.controller_user
    own = (layout.agent, layout.agent_socket.parent)
    if name == "nebh-controller":
        own = (layout.controller, layout.controller_socket.parent)
    uid, gid = user_of(user)
    return Sandbox(uid=uid, gid=gid, writable=own, visible=(layout.state, layout.run))


def user_of(name: str) -> tuple[int, int]:
    """Return (uid, gid). Raises BadInput when there is no such user."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise BadInput(f"cannot find the user {name}", hint="`make install` makes the users of Nebh") from None
    return entry.pw_uid, entry.pw_gid


def run_program(name: str, words: tuple[str, ...], layout: Layout, config: LocalConfig) -> bytes:
    """Run agent or controller once, confined as when it serves, and return what it printed. Raises Failed."""
    tree, covers = reachable_tree(own_tree(), layout.run / "programs")
    sandbox = replace(sandbox_of(name, layout, config), covers=covers)
    return run_sandboxed((*tree.argv(name.removeprefix("nebh-")), *words), env=tree.env, sandbox=sandbox)


def children_of(layout: Layout, config: LocalConfig) -> tuple[Child, ...]:
    """Return the three programs as children to supervise."""
    own = own_tree()
    shown, covers = reachable_tree(own, layout.run / "programs")
    faults = {name: value for name, value in os.environ.items() if name.startswith("NEBH_FAULT")}
    children: list[Child] = []
    for name in NAMES:
        confined = name != "nebh-executor"
        tree = shown if confined else own
        sandbox = replace(sandbox_of(name, layout, config), covers=covers) if confined else None
        children.append(
            Child(
                name=name,
                argv=(*tree.argv(name.removeprefix("nebh-")), *words_of(name, layout, config)),
                env=tree.env if confined else {**tree.env, **faults},
                output=log_of(name, layout),
                sandbox=sandbox,
            )
        )
    return tuple(children)


def log_of(name: str, layout: Layout) -> Path:
    """Return the file a child's output is appended to."""
    return layout.state / f"{name.removeprefix('nebh-')}.log"
