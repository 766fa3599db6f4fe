"""What `nebh up` looks at before it changes anything: everything that is missing at once, each with what gets it."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from nebh.drivers.containers.preflight import Finding, judge_kernel
from nebh.host import processes
from nebh.host.cgroups import CONTROLLERS, find_tree
from nebh.host.disk import free_bytes, is_volatile
from nebh.host.layout import Layout
from nebh.host.listeners import listener_of
from nebh.host.program_tree import ProgramTree, check_tree
from nebh.host.run import PATH, Command, run
from nebh.host.sandbox import check_reachable
from nebh.model.errors import BadInput
from nebh.model.local import LocalConfig
from nebh.model.quantities import render_size

# program: Debian's package that has it
PROGRAMS = {
    "crun": "crun",
    "conmon": "conmon",
    "haproxy": "haproxy",
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "ip": "iproute2",
}
LEAST_DISK = 1 << 30
LEAST_MEMORY = 400 << 20
_SOCKET_LIMIT = 107
_LONGEST_SOCKET = "/controller/.9999999.controller.sock"


def look(layout: Layout, config: LocalConfig, *, tree: ProgramTree) -> tuple[Finding, ...]:
    """Return every look at this machine; the users need not be there yet."""
    return (
        _tree(tree),
        judge_kernel(os.uname().release),
        *_programs(),
        _cgroups(),
        *_state(layout),
        _memory(),
        *_reach(layout),
        *_ports(layout, config),
    )


def check_machine(layout: Layout, config: LocalConfig, *, tree: ProgramTree) -> None:
    """Raises BadInput with one line for everything that is missing."""
    missing = [one for one in look(layout, config, tree=tree) if not one.ok]
    if not missing:
        return
    lines = [f"  {one.sentence}\n    -> {one.remedy}" for one in missing]
    packages = " ".join(PROGRAMS[name] for name in PROGRAMS if not find_program(name))
    hint = f"apt-get install --no-install-recommends {packages}" if packages else "then run `nebh up` again"
    raise BadInput("cannot make this machine a cloud:\n" + "\n".join(lines), hint=hint)


def find_program(name: str) -> str | None:
    """Return where a program is, None when it is nowhere."""
    return shutil.which(name, path=PATH)


def ensure_user(name: str) -> tuple[int, int]:
    """Return (uid, gid) of a system user, made when it is missing. Raises CommandFailed."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        words = ("--system", "--user-group", "--home-dir", "/nonexistent", "--no-create-home")
        run(Command(argv=("useradd", *words, "--shell", "/usr/sbin/nologin", "--comment", "Nebh", name)))
        entry = pwd.getpwnam(name)
    return entry.pw_uid, entry.pw_gid


def _tree(tree: ProgramTree) -> Finding:
    try:
        check_tree(tree)
    except BadInput as error:
        return Finding(ok=False, sentence=error.message, remedy=error.hint)
    return Finding(ok=True, sentence=f"only root can change the programs in {tree.paths[0]}")


def _programs() -> tuple[Finding, ...]:
    return tuple(
        Finding(ok=True, sentence=f"{name} is installed")
        if find_program(name)
        else Finding(
            ok=False, sentence=f"{name} is not installed", remedy=f"apt-get install --no-install-recommends {package}"
        )
        for name, package in PROGRAMS.items()
    )


def _cgroups() -> Finding:
    try:
        missing = find_tree("nebh").missing()
    except OSError:
        missing = CONTROLLERS
    if missing:
        return Finding(
            ok=False,
            sentence=f"this machine shows no control group controller {', '.join(missing)} in /sys/fs/cgroup",
            remedy="mount them (`mount -t cgroup2 none /sys/fs/cgroup`), or boot with cgroup_enable=memory",
        )
    return Finding(ok=True, sentence=f"control groups limit {', '.join(CONTROLLERS)}")


def _state(layout: Layout) -> tuple[Finding, ...]:
    place = existing(layout.state)
    findings: list[Finding] = []
    if is_volatile(place):
        findings.append(
            Finding(
                ok=False,
                sentence=f"{layout.state} is in memory, and gone after a reboot",
                remedy="choose a folder on a disk with --state",
            )
        )
    free = free_bytes(place)
    sentence = f"{render_size(free)} of disk are free for {layout.state}"
    remedy = "" if free >= LEAST_DISK else "free some, or choose another disk with --state"
    findings.append(Finding(ok=free >= LEAST_DISK, sentence=sentence, remedy=remedy))
    too_long = len(str(layout.run)) + len(_LONGEST_SOCKET) > _SOCKET_LIMIT
    findings.append(
        Finding(
            ok=not too_long,
            sentence=f"sockets have room in {layout.run}" if not too_long else f"the path {layout.run} is too long",
            remedy="choose a shorter folder with --run" if too_long else "",
        )
    )
    return tuple(findings)


def existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    ok = total >= LEAST_MEMORY
    remedy = "" if ok else f"use a machine with at least {render_size(LEAST_MEMORY)}"
    return Finding(ok=ok, sentence=f"this machine has {render_size(total)} of memory", remedy=remedy)


def _reach(layout: Layout) -> tuple[Finding, ...]:
    return tuple(
        Finding(ok=False, sentence=sentence, remedy="choose folders with --state and --run that all users may pass")
        for sentence in check_reachable((existing(layout.state), existing(layout.run)))
    )


def _ports(layout: Layout, config: LocalConfig) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    for option, port in (("--http-port", config.http_port), ("--https-port", config.https_port)):
        holder = listener_of(port)
        if holder is not None and not _is_ours(holder.pid, layout):
            findings.append(
                Finding(
                    ok=False,
                    sentence=f"port {port} is taken by {holder}",
                    remedy=f"stop it (`systemctl disable --now {holder.name or 'NAME'}`), or choose another: {option}",
                )
            )
        else:
            findings.append(
                Finding(ok=True, sentence=f"port {port} is free" if holder is None else f"port {port} is ours")
            )
    return tuple(findings)


def _is_ours(pid: int, layout: Layout) -> bool:
    """Tell whether that is the proxy of this very cloud, left running on purpose."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(layout.ingress / "haproxy.cfg").encode() in words and processes.identify(pid) is not None
