"""The system calls a container may make: Docker's default profile for a process without capabilities, minus ours.

`seccomp_profile.json` beside this file is `derive_profile` of moby's `profiles/seccomp/default.json`
(https://github.com/moby/profiles, Apache License 2.0, commit cd3bed8). Only the machine's own architecture is
allowed: 32-bit calls reach the kernel through `socketcall`, whose arguments no filter sees.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

ATTRIBUTION = (
    "Derived from moby/profiles seccomp/default.json, commit cd3bed8, Copyright Docker, Inc. and the moby authors, "
    "Apache License 2.0. Changed: resolved for no capabilities, system calls removed. See seccomp.py."
)
REMOVED = frozenset(
    {
        *("ptrace", "process_vm_readv", "process_vm_writev", "personality", "modify_ldt", "remap_file_pages"),
        *("fanotify_mark", "name_to_handle_at", "vmsplice", "mknod", "mknodat"),
        *("adjtimex", "clock_adjtime", "clock_adjtime64"),
        *("setfsuid", "setfsuid32", "setfsgid", "setfsgid32"),
    }
)
_ARCHITECTURES = frozenset({"amd64", "x86", "x32", "arm64", "arm"})


def derive_profile(moby: dict[str, Any]) -> dict[str, Any]:
    """Return the `linux.seccomp` part of an OCI config made from moby's profile (as parsed JSON)."""
    plain: set[str] = set()
    rules: list[dict[str, Any]] = []
    for entry in moby["syscalls"]:
        if not _applies(entry):
            continue
        names = sorted(set(entry["names"]) - REMOVED)
        if not names:
            continue
        if entry["action"] == "SCMP_ACT_ALLOW" and not entry.get("args"):
            plain.update(names)
        else:
            kept = {key: entry[key] for key in ("action", "args", "errnoRet") if entry.get(key) is not None}
            rules.append({"names": names, **kept})
    return {
        "defaultAction": moby["defaultAction"],
        "defaultErrnoRet": moby["defaultErrnoRet"],
        "syscalls": [{"names": sorted(plain), "action": "SCMP_ACT_ALLOW"}, *rules],
    }


def _applies(entry: dict[str, Any]) -> bool:
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if includes.get("caps"):
        return False  # a container of ours has none
    if includes.get("arches") and not _ARCHITECTURES & set(includes["arches"]):
        return False
    return not (excludes.get("arches") and set(excludes["arches"]) >= _ARCHITECTURES)


def render_profile(moby: dict[str, Any]) -> str:
    """Return the text of the data file."""
    return json.dumps({"attribution": ATTRIBUTION, "profile": derive_profile(moby)}, indent=1) + "\n"


@cache
def load_profile() -> dict[str, Any]:
    """Return the shipped profile: the `linux.seccomp` part of an OCI config. Not to be changed by callers."""
    text = resources.files(__package__).joinpath("seccomp_profile.json").read_text(encoding="utf-8")
    profile: dict[str, Any] = json.loads(text)["profile"]
    return profile
