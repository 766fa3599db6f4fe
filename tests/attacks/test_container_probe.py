"""A static program tries from inside a container what no container should be able to do. Its table is golden, and the
same program in a container without Nebh's defences shows that it would notice each one that is missing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nebh.model.errors import NotFound
from nebh.testing.container_rig import ContainerRig, private_rig
from nebh.testing.probe_rows import normalise, of_this_machine
from nebh.testing.static_program import compile_static

pytestmark = pytest.mark.root

ONE = "web-7-0-1"
SOURCE = Path(__file__).with_name("programs") / "probe.c"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "container_probe.txt"
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)

NOT_TAKEN = {
    # what the loose container does not take away, and why
    "socket INET": "allowed on purpose: what it reaches is the network's affair",
    "socket UNIX": "allowed on purpose: it reaches the container's own sockets",
    "identity raise a hard limit": "needs CAP_SYS_RESOURCE, which test machines lack",
    "write an oom_score_adj below 0": "needs CAP_SYS_RESOURCE, which test machines lack",
    "identity real-time scheduling": "where real-time groups are on, a group without a share refuses root too",
    "write /": "the tree is mounted read-only by the launcher, not by the runtime",
    "write /bin/probe": "as above",
    "write /etc/hosts": "bound read-only in both",
    "write /etc/resolv.conf": "bound read-only in both",
    "write /proc/self/exe": "a program that runs is never opened for writing",
    "write /proc/sysrq-trigger": "many kernels have none",
    "write a map of user 0": "a map is written once, and this process has its map",
    "write /sys/fs/cgroup/release_agent": "the loose /sys is read-only and without hierarchies",
    "write /sys/fs/cgroup/cgroup.procs": "as above",
    "write /sys/kernel/uevent_helper": "as above",
    "make a way out by chdir ..": "pivot_root holds both",
}


@pytest.fixture(scope="module")
def rig() -> Iterator[ContainerRig]:
    """A rig whose tree holds the probe, and a copy of it that is setuid root."""
    try:
        with private_rig() as made:
            probe = compile_static(SOURCE, made.tree / "bin" / "probe")
            copy = made.tree / "bin" / "setuid-probe"
            shutil.copy(probe, copy)
            copy.chmod(0o4755)
            yield made
    except NotFound as error:
        pytest.skip(f"{error}: {error.hint}")


def run_probe(rig: ContainerRig, change: Callable[[dict[str, Any]], None] | None = None) -> list[str]:
    """Run the probe in a container to its end; return its rows. change: what is different in its config."""
    plan = rig.plan(ONE, "/bin/probe")
    if change is not None:
        config = json.loads(plan.config)
        change(config)
        plan = dataclasses.replace(plan, config=json.dumps(config).encode())
    lines = rig.run_to_end(plan)
    assert lines[-1:] == ["end"], f"the probe did not come to its end: {lines[-5:]}"
    return lines[:-1]


def by_name(rows: list[str]) -> dict[str, str]:
    """Return what happened by `kind name`."""
    return dict(row.rpartition(": ")[::2] for row in rows)


def loosen(config: dict[str, Any]) -> None:
    """Take Nebh's defences away: what is left is a privileged container that sees a read-only /sys."""
    bound = re.search(r"^CapBnd:\s+(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    mine = int(bound[1], 16) if bound else 0
    names = [f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if mine >> bit & 1]
    process, linux = config["process"], config["linux"]
    process |= {"noNewPrivileges": False, "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 0}
    process["capabilities"] = dict.fromkeys(process["capabilities"], names)
    for name in ("seccomp", "uidMappings", "gidMappings"):
        del linux[name]
    linux |= {"maskedPaths": [], "readonlyPaths": []}
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "user"]
    config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/tmp"]
    config["mounts"] += [
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
    ]


def test_the_table_is_golden(rig: ContainerRig) -> None:
    assert normalise(run_probe(rig)) == of_this_machine(GOLDEN.read_text())


def test_the_program_notices_each_defence_that_is_missing(rig: ContainerRig) -> None:
    held, loose = by_name(run_probe(rig)), by_name(run_probe(rig, loosen))
    tries = [name for name in held if name.split()[0] in {"call", "namespace", "identity", "socket", "write", "make"}]
    blind = {name for name in tries if held[name] == loose.get(name)} - NOT_TAKEN.keys()
    assert not blind, f"these rows say the same with and without defences: {sorted(blind)}"
    assert len(tries) - len(NOT_TAKEN) >= 90
    for name in ("status CapEff", "status CapBnd", "status NoNewPrivs", "status Seccomp", "uid_map", "oom_score_adj"):
        assert held[name] != loose[name]


def test_what_is_hidden_is_there_without_the_masks(rig: ContainerRig) -> None:
    """Each file of the kernel that the probe cannot read, and that this kernel has, is read in the loose container."""
    held, loose = by_name(run_probe(rig)), by_name(run_probe(rig, loosen))
    rows = {name.split()[1]: name for name in held if name.startswith("read ")}
    there = [path for path in rows if path.startswith("/proc/") and "/1/" not in path and _readable(Path(path))]
    assert len(there) >= 5
    assert {path for path in there if loose[rows[path]] != "readable"} == set()
    assert {path for path in rows if held[rows[path]] != "nothing"} == set()
    devices = [path for path in rows if path.startswith("/dev/") and Path(path).exists()]
    assert devices, "the host has none of the devices that the probe looks for"


def _readable(path: Path) -> bool:
    """Tell whether root reads something there on this machine. Folders and blocking files: the loose container says."""
    try:
        with path.open("rb", buffering=0) as file:
            return path.name not in {"kmsg", "kcore"} and bool(file.read(16))
    except OSError:
        return False
