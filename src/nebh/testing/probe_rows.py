"""The rows that the probe of tests/attacks prints from inside a container, without what differs between machines."""

from __future__ import annotations

import os
import re
import resource

_LIMITS = {
    "core": (resource.RLIMIT_CORE, 0, 0),
    "locked memory": (resource.RLIMIT_MEMLOCK, 65_536, 65_536),
    "files": (resource.RLIMIT_NOFILE, 1024, 4096),
    "processes": (resource.RLIMIT_NPROC, 32, 32),
}


def normalise(rows: list[str]) -> list[str]:
    """Take out what differs between machines: file systems, the range of ids, order of mounts, lowered limits. Masks
    stand where the kernel has the file: what they do is shown by the rows `read` and `write`."""
    found = [_without_machine(row) for row in rows if not row.startswith(("mount /proc/", "mount /sys/"))]
    order = [row for row in found if not row.startswith("mount ")]
    return order + sorted(row for row in found if row.startswith("mount "))


def _without_machine(row: str) -> str:
    if row.startswith("mount "):
        named = re.sub(r"^(mount \S+): (?!tmpfs|proc|sysfs|mqueue|devpts|cgroup)\S+", r"\1: disk", row)
        # The tree and its files lie wherever the test may write: on a tmpfs where /tmp is one.
        named = re.sub(r"^(mount (?:/|/etc/\S+)): tmpfs ", r"\1: disk ", named)
        named = re.sub(r"^(mount /dev/(?:null|zero|full|tty|u?random)): \S+ (ro|rw)\S*", r"\1: device \2", named)
        return re.sub(r",(relatime|noatime|lazytime)\b", "", named)
    if row.startswith(("uid_map", "gid_map")):
        return re.sub(r": 0 (\d+) 65536$", lambda one: f": 0 {_range(int(one[1]))} 65536", row)
    return _as_wanted(row).rstrip()


def _range(first: int) -> str:
    """Ids of containers lie above everybody else's, in steps of a whole range."""
    return "RANGE" if first >= 0x70000000 and first % 65_536 == 0 else str(first)


def _as_wanted(row: str) -> str:
    """A limit that the machine's own makes lower than ours counts as ours."""
    match = re.fullmatch(r"limit (.+): (\d+) (\d+)", row)
    if match is None:
        return row
    which, soft, hard = _LIMITS[match[1]]
    own = resource.getrlimit(which)[1]
    lowered = own if own != resource.RLIM_INFINITY else hard
    if (int(match[2]), int(match[3])) == (min(soft, lowered), min(hard, lowered)):
        return f"limit {match[1]}: {soft} {hard}"
    return row


def of_this_machine(golden: str) -> list[str]:
    """Return the rows of a golden table that this processor has: some calls exist on x86_64 only."""
    only = ("call ioperm:", "call iopl:", "call modify_ldt:", "call 32-bit code:", "call x32 code:")
    wanted = golden.splitlines()
    return wanted if os.uname().machine == "x86_64" else [row for row in wanted if not row.startswith(only)]
