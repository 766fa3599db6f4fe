"""`nebh up` on this machine."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from nebh.cli import systemd
from nebh.cli.founding import (
    check_name_is_free,
    check_words_are_read,
    found_on,
    is_founded,
    sign_pins,
    wait_until_accepted,
)
from nebh.cli.machine import choose_config, layout_of, prepare_machine, wait_for_programs
from nebh.cli.node_end import LocalNode
from nebh.cli.output import Output
from nebh.cli.programs import children_of
from nebh.host import faults
from nebh.host.children import Children
from nebh.host.files import write_atomic
from nebh.host.layout import Layout
from nebh.host.namespaces import become_subreaper
from nebh.host.processes import ProcessId, identify, is_alive
from nebh.host.program_tree import own_tree
from nebh.host.run import is_root
from nebh.model.errors import BadInput, Conflict
from nebh.model.local import LocalConfig
from nebh.wire import codec

SUPERVISOR = "up.json"


def up(options: argparse.Namespace, out: Output) -> int:
    """Make this machine (or a target) a cloud."""
    faults.arm(dict(os.environ))
    if options.target:
        from nebh.cli.remote import up_remote

        return up_remote(options, out)
    if not is_root():
        raise BadInput("cannot make this machine a cloud as an ordinary user", hint="sudo nebh up")
    layout = layout_of(options)
    by_systemd = systemd.is_running() and not options.foreground
    parent = options.cgroup_parent or (systemd.PARENT if by_systemd else "nebh")
    config = choose_config(layout, options, parent=parent)
    if not options.enrol_later:
        check_name_is_free(layout, options.name or config.name)
        check_words_are_read(layout, options.name or config.name, options)
    prepare_machine(layout, config, tree=own_tree())
    out.note(f"this machine has what it needs; state is in {layout.state}")
    if by_systemd:
        return with_systemd(layout, config, options, out)
    return foreground(layout, config, options, out)


def with_systemd(layout: Layout, config: LocalConfig, options: argparse.Namespace, out: Output) -> int:
    """Have systemd run the programs; return when they answer and the cloud is founded."""
    for line in systemd.install(layout, config):
        out.note(line)
    wait_for_programs(
        layout, pause=time.sleep, ended=lambda: False, where="`journalctl -u nebh-executor -u nebh-controller`"
    )
    found(layout, config, options, out)
    out.say(f"{config.name} is up; it comes back after a reboot")
    return 0


def found(layout: Layout, config: LocalConfig, options: argparse.Namespace, out: Output) -> None:
    """Found the cloud where that was not done yet, or finish what was cut short."""
    if options.enrol_later:
        return
    node = LocalNode(layout, config)
    if is_founded(node, options.name or config.name):
        sign_pins(node, options, out)
        return
    found_on(node, options, out)
    wait_until_accepted(layout, out)


def foreground(layout: Layout, config: LocalConfig, options: argparse.Namespace, out: Output) -> int:
    """Supervise the programs here until Ctrl-C; containers run on afterwards."""
    other = read_supervisor(layout)
    if other is not None:
        raise Conflict(
            f"cannot start: process {other.pid} supervises this cloud already", hint="`nebh down` ends it and its cloud"
        )
    become_subreaper()
    children = Children(children_of(layout, config), say=out.note)
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: ended.append(got))
    own = identify(os.getpid())
    assert own is not None
    write_atomic(layout.run / SUPERVISOR, codec.encode(own), durable=False)
    children.start()
    try:
        wait_for_programs(layout, pause=children.watch, ended=lambda: bool(ended), where=f"{layout.state}/*.log")
        found(layout, config, options, out)
        out.say(f"{config.name} is up; Ctrl-C ends Nebh's programs here, what they started runs on")
        while not ended:
            children.watch(0.5)
    finally:
        children.stop()
        (layout.run / SUPERVISOR).unlink(missing_ok=True)
    out.note("ended; containers, ingress and names run on. `nebh up` takes them over again, `nebh down` ends them")
    return 0


def read_supervisor(layout: Layout) -> ProcessId | None:
    """Return the live `nebh up --foreground` of this cloud, None when there is none."""
    path: Path = layout.run / SUPERVISOR
    try:
        process = codec.decode(path.read_bytes(), ProcessId, what=str(path))
    except (OSError, BadInput):
        return None
    return process if is_alive(process) else None
