"""`nebh down`: take away exactly what Nebh made on this machine. Needs no controller; safe to repeat."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from nebh.cli import systemd
from nebh.cli.machine import layout_of, read_local
from nebh.cli.output import Output, confirm
from nebh.cli.programs import NAMES
from nebh.cli.session import config_base
from nebh.cli.units import UNITS
from nebh.cli.up import SUPERVISOR, read_supervisor
from nebh.drivers.containers.crun import CrunContainers, Folders
from nebh.drivers.dns.dnsmasq import DnsmasqDns
from nebh.drivers.ingress.haproxy import HaproxyIngress
from nebh.drivers.networks.routed import RoutedNetwork
from nebh.host import cgroups, daemons, processes
from nebh.host.files import read_bounded
from nebh.host.launcher import fork_launcher
from nebh.host.layout import Layout
from nebh.host.namespaces import CLONE_NEWNET, unshare
from nebh.host.networker import UNREACHABLE_METRIC, fork_networker
from nebh.host.rooting import leave_chroot
from nebh.host.run import Command, is_root
from nebh.host.worker import Worker
from nebh.model.errors import BadInput, Failed, NebhError
from nebh.model.local import LocalConfig

_STATE = (
    *("executor", "objects", "manifests", "trees", "bundles", "logs", "agent", "controller", "ingress", "dns"),
    *("volumes", "node.json", "executor.log", "agent.log", "controller.log"),
)
_RUN = (
    *("executor.sock", "agent", "controller", "ingress", "crun", "exits", "persist", "programs"),
    *(SUPERVISOR, "first-root.json", "agent.sock", "controller.sock"),
)
_PATIENCE = 40.0


def down(options: argparse.Namespace, out: Output) -> int:
    """End this machine's cloud; with --purge also forget it."""
    if not is_root():
        raise BadInput("cannot end this machine's cloud as an ordinary user", hint="sudo nebh down")
    if options.forget_key and not options.purge:
        raise BadInput("--forget-key goes with --purge only: the key is needed to bring the cloud up again")
    layout = layout_of(options)
    config = read_local(layout)
    if config is None and not layout.run.exists() and not any((systemd.FOLDER / one).exists() for one in UNITS):
        out.say(f"there is no cloud in {layout.state}: nothing to end")
        forget(options, out, root=b"")
        return 0
    asked = f"This removes {layout.state}: every release and all data on this node. Go on?"
    if options.purge and os.isatty(0) and not confirm(asked, yes=options.yes):
        raise BadInput("nothing was ended")
    end_programs(layout, out)
    take_down(layout, config or LocalConfig(name="node"), out)
    root = read_root(layout)
    clear(layout.run, _RUN)
    if options.purge:
        clear(layout.state, _STATE)
        out.note(f"removed {layout.state}")
    forget(options, out, root=root)
    say_what_stays(layout, options, out)
    return 0


def read_root(layout: Layout) -> bytes:
    """Return the root this machine was enrolled with, b"" for none."""
    with contextlib.suppress(OSError):
        return read_bounded(layout.pinned_root, limit=1 << 20)
    return b""


def end_programs(layout: Layout, out: Output) -> None:
    """End units, or the supervisor in the foreground, and whatever of our programs still runs for these folders."""
    if layout == Layout():
        for name in systemd.remove():
            out.note(f"removed the unit {name}")
    supervisor = read_supervisor(layout)
    if supervisor is not None:
        processes.send_signal(supervisor, signal.SIGTERM)
        if not processes.wait_end(supervisor, seconds=_PATIENCE):
            raise Failed(f"cannot end `nebh up` (process {supervisor.pid})", hint="look at what it waits for")
        out.note("ended the programs")
    for process in strays(layout):
        processes.send_signal(process, signal.SIGKILL)
        processes.wait_end(process, seconds=5.0)


def strays(layout: Layout) -> tuple[processes.ProcessId, ...]:
    """Return processes of our programs that serve these very folders (a supervisor that was killed leaves none)."""
    programs = {f"nebh.programs.{name.removeprefix('nebh-')}".encode() for name in NAMES}
    places = {os.fsencode(path) for path in (layout.state, layout.agent, layout.controller)}
    found: list[processes.ProcessId] = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            words = set(Path("/proc", name, "cmdline").read_bytes().split(b"\0")) if name.isdigit() else set()
            process = processes.identify(int(name)) if programs & words and places & words else None
            if process is not None:
                found.append(process)
    return tuple(found)


def take_down(layout: Layout, config: LocalConfig, out: Output) -> None:
    """End what runs on without our programs: containers, proxy, resolver, links, table, control groups."""
    leave_chroot()
    networker = fork_networker()
    unshare(CLONE_NEWNET)
    launcher = fork_launcher()
    try:
        _containers(layout, config, launcher, out)
        _services(layout, config, networker, out)
        _network(networker, out)
    finally:
        launcher.close()
        networker.close()


def ended_subnets(networker: Worker) -> tuple[str, ...]:
    """Return the subnets whose routes we ended, by the metric that is ours."""
    found: list[str] = []
    for family in ("-4", "-6"):
        command = Command(argv=("ip", family, "-j", "route", "show", "type", "unreachable"), accept=(0, 1, 2))
        lines = networker.run(command).text.strip() or "[]"
        found += [one["dst"] for one in json.loads(lines) if one.get("metric") == UNREACHABLE_METRIC]
    return tuple(found)


def _containers(layout: Layout, config: LocalConfig, launcher: Worker, out: Output) -> None:
    tree = cgroups.find_tree(config.cgroup_parent)
    folders = Folders(bundles=layout.bundles, logs=layout.logs, run=layout.run)
    containers = CrunContainers(folders=folders, cgroups=tree, launcher=launcher)
    for name in containers.list():
        containers.delete(name)
        out.note(f"ended {name}")
    tree.destroy()


def _services(layout: Layout, config: LocalConfig, networker: Worker, out: Output) -> None:
    if layout.ingress.exists():
        uid, gid = daemons.user_id(config.ingress_user, "nobody")
        proxy = HaproxyIngress(
            state=layout.ingress, run=layout.run / "ingress", spawn=networker.spawn, uid=uid, gid=gid, seen_from=0
        )
        proxy.stop()
        out.note("ended the proxy")
    if layout.dns.exists():
        DnsmasqDns(networker, folder=layout.dns).stop()
        out.note("ended the resolver")


def _network(networker: Worker, out: Output) -> None:
    network = RoutedNetwork(networker)
    for link in network.links():
        network.detach(link)
    network.remove(subnets=ended_subnets(networker))
    out.note("took links, routes and rules away")


def clear(folder: Path, names: tuple[str, ...]) -> None:
    """Remove what is ours in a folder, and the folder when nothing else is in it."""
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def forget(options: argparse.Namespace, out: Output, *, root: bytes) -> None:
    """With --forget-key: remove the operator's folder of this machine's cloud."""
    if not options.forget_key:
        return
    for folder in config_base().glob("*"):
        with contextlib.suppress(OSError, NebhError):
            if root and read_bounded(folder / "root.json", limit=1 << 20) == root:
                shutil.rmtree(folder)
                out.note(f"removed {folder}: without the recovery words nobody can sign for that cloud any more")


def say_what_stays(layout: Layout, options: argparse.Namespace, out: Output) -> None:
    """Say what was not taken away."""
    stays: list[str] = []
    if layout.state.exists():
        what = "what you put there" if options.purge else "data, releases and keys of this node; --purge removes it"
        stays.append(f"{layout.state} ({what})")
    if config_base().exists() and any(config_base().iterdir()):
        stays.append(f"{config_base()} (operator keys)")
    stays.append("the programs and the users nebh-* (`make uninstall` removes them)")
    stays.append("IP forwarding, which others may count on by now")
    out.say("down; what stays:\n" + "\n".join(f"  {one}" for one in stays))
