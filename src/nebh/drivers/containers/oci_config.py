"""The OCI runtime config of an instance: a pure function of (policy, release, node facts), rule N12.

What it holds is the container profile of docs/security.md: a user namespace of the service's own, no capability,
no_new_privs, a read-only root, our seccomp profile, no /sys, no devices, sized tmpfs only, and hard limits.
"""

from __future__ import annotations

import json
from typing import Any

from nebh.drivers.containers.runtime_sizes import render_sizes
from nebh.drivers.containers.seccomp import load_profile
from nebh.model.instance import InstanceFacts
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.service import Limits

UID_RANGE = 65_536
CPU_PERIOD_US = 100_000
CPU_SHARES, CPU_WEIGHT = 1024, 100  # of version 1 and 2 of control groups
_BYTES_PER_FILE = 1024  # of a tmpfs: nobody fills the kernel's memory with empty files
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_MASKED_PROC = (
    *("acpi", "asound", "config.gz", "interrupts", "kallsyms", "kcore", "keys", "kmsg", "kpagecount", "kpageflags"),
    *("latency_stats", "modules", "sched_debug", "scsi", "slabinfo", "timer_list", "timer_stats"),
    "vmallocinfo",
)
LIVE = "/dev/nebh"
"""Where a container sees the folder that its live files' links lead into: in memory, so no image needs a place for it."""
_MASKED = (
    *(f"/proc/{name}" for name in _MASKED_PROC),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
_READONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))


def render_config(policy: Policy, release: Release, facts: InstanceFacts) -> bytes:
    """Return config.json. The same arguments give the same bytes."""
    mapping = [{"containerID": 0, "hostID": facts.uid_base, "size": UID_RANGE}]
    config = {
        "ociVersion": "1.0.2",
        "hostname": facts.hostname,
        "root": {"path": facts.root, "readonly": True},
        "process": _process(policy, release, facts),
        "mounts": _mounts(policy, facts),
        "linux": {
            "namespaces": _namespaces(facts),
            "uidMappings": mapping,
            "gidMappings": mapping,
            "cgroupsPath": facts.cgroup,
            "resources": _resources(policy.limits, cgroup_v2=facts.cgroup_v2),
            "seccomp": load_profile(),
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }
    return json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def render_process(config: bytes, argv: tuple[str, ...]) -> bytes:
    """Return the file for `crun exec --process`: the container's own process with other arguments."""
    process = {**json.loads(config)["process"], "args": list(argv)}
    return json.dumps(process, sort_keys=True, ensure_ascii=False).encode()


def _process(policy: Policy, release: Release, facts: InstanceFacts) -> dict[str, Any]:
    limits = policy.limits
    return {
        **({"apparmorProfile": facts.apparmor} if facts.apparmor else {}),
        "terminal": False,
        "user": {"uid": release.user, "gid": release.user, "umask": 0o077},
        "args": list(release.argv),
        "env": [f"{name}={value}" for name, value in sorted(_env(limits, release, facts).items())],
        "cwd": "/",
        "capabilities": {name: [] for name in _CAPABILITY_SETS},
        "noNewPrivileges": True,
        "oomScoreAdj": 500,
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096},
            {"type": "RLIMIT_NPROC", "soft": limits.pids, "hard": limits.pids},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_MEMLOCK", "soft": 65_536, "hard": 65_536},
        ],
    }


def _env(limits: Limits, release: Release, facts: InstanceFacts) -> dict[str, str]:
    env = {"PATH": _PATH, "HOME": "/tmp", **render_sizes(limits), **release.env}
    env["NEBH_SERVICE"] = release.service
    env["NEBH_RELEASE"] = str(release.counter)
    env["NEBH_REPLICA"] = str(facts.replica)
    env["NEBH_MEMORY_BYTES"] = str(limits.memory)
    if limits.cpu:
        env["NEBH_CPUS"] = f"{limits.cpu / 1000:.3f}".rstrip("0").rstrip(".")
    return env


def _namespaces(facts: InstanceFacts) -> list[dict[str, str]]:
    kinds = ("pid", "ipc", "uts", "mount", "user", "cgroup")
    network = {"type": "network", **({"path": facts.netns} if facts.netns else {})}
    return [network, *({"type": kind} for kind in kinds)]


def _mounts(policy: Policy, facts: InstanceFacts) -> list[dict[str, Any]]:
    limits = policy.limits
    bare = ["nosuid", "nodev", "noexec"]
    tmp = ["nosuid", "nodev", *([] if policy.tmp_exec else ["noexec"])]
    mounts = [
        _mount("/proc", "proc", bare),
        # nodev would make the device files that crun binds here useless
        _mount("/dev", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
        _mount("/dev/shm", "tmpfs", [*bare, "mode=1777", *_sized(limits.shm)]),
        _mount("/tmp", "tmpfs", [*tmp, "mode=1777", *_sized(limits.tmp)]),
    ]
    if policy.cgroup_view:
        mounts += [
            _mount("/sys", "tmpfs", [*bare, "mode=755", "size=64k"]),
            _mount("/sys/fs/cgroup", "cgroup", [*bare, "relatime", "ro"]),
        ]
    mounts += [
        {"destination": f"/etc/{name}", "type": "bind", "source": path, "options": ["bind", "ro", *bare]}
        for name, path in sorted(facts.etc_files.items())
    ]
    # files keep the ids that they have inside: a volume can move to a node whose range for this service is another
    for path, source, read_only in sorted(facts.volumes):
        options = ["bind", "idmap", "ro" if read_only else "rw", *bare]
        mounts.append({"destination": path, "type": "bind", "source": source, "options": options})
    mounts += [
        {"destination": path, "type": "bind", "source": source, "options": ["bind", "ro", *bare]}
        for path, source in (*sorted(facts.secret_folders.items()), *sorted(facts.files.items()))
    ]
    if facts.live:
        mounts.append(
            {"destination": LIVE, "type": "bind", "source": facts.live, "options": ["bind", "ro", *bare]},
        )
    return mounts


def _sized(size: int) -> tuple[str, str]:
    return f"size={size}", f"nr_inodes={max(1, size // _BYTES_PER_FILE)}"


def _mount(destination: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": options}


def _resources(limits: Limits, *, cgroup_v2: bool) -> dict[str, Any]:
    resources: dict[str, Any] = {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": limits.memory},
        "pids": {"limit": limits.pids},
    }
    # every container weighs the same where processors are short
    cpu = {} if cgroup_v2 else {"shares": CPU_SHARES}
    if limits.cpu:
        cpu |= {"quota": limits.cpu * CPU_PERIOD_US // 1000, "period": CPU_PERIOD_US}
    if cpu:
        resources["cpu"] = cpu
    if cgroup_v2:
        resources["memory"]["swap"] = limits.memory  # memory and swap together: no swap
        resources["unified"] = {"cpu.weight": str(CPU_WEIGHT), "memory.oom.group": "1"}
    return resources
