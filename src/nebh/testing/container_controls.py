"""What a container may do under Nebh and under others' defaults, row by row, and who is stricter. Pure: configs in,
table out. `docs/security-containers.md` is made from it.

A measure is how much is open: a set of things (less is stricter) or a number (smaller is stricter; infinite = no limit).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_UNLIMITED = math.inf
_OUR_IDS = 0x70000000


@dataclass(frozen=True, kw_only=True)
class Measure:
    """words: for people; opens: what is open."""

    words: str
    opens: frozenset[str] | float


Controls = Mapping[str, Measure]
"""A measure for each of ROWS."""

ROWS = (
    *(
        "root inside is, on the host",
        "process user",
        "capabilities",
        "no_new_privs",
        "system calls",
        "root file system",
    ),
    *(
        "programs from /tmp",
        "/sys",
        "processes",
        "memory",
        "files of the kernel left readable",
        "AppArmor where it is on",
    ),
    *("cloud metadata address", "image"),
)


class Verdict(StrEnum):
    """How Nebh compares in a row."""

    STRICTER = "stricter"
    EQUAL = "equal"
    LOOSER = "looser"


def judge(ours: Measure, theirs: Measure) -> Verdict:
    """Compare what is open. Two sets of which neither holds the other: looser, as something is open that is not there."""
    if ours.opens == theirs.opens:
        return Verdict.EQUAL
    if isinstance(ours.opens, frozenset) and isinstance(theirs.opens, frozenset):
        return Verdict.STRICTER if ours.opens < theirs.opens else Verdict.LOOSER
    if isinstance(ours.opens, frozenset) or isinstance(theirs.opens, frozenset):
        raise TypeError("cannot compare a set with a number")
    return Verdict.STRICTER if ours.opens < theirs.opens else Verdict.LOOSER


def compare(ours: Controls, theirs: Controls) -> dict[str, Verdict]:
    """Return the verdict of each row."""
    return {row: judge(ours[row], theirs[row]) for row in ROWS}


# what is open, from an OCI config

_DOCKER_MASKED = frozenset(
    f"/proc/{name}"
    for name in (
        *("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list"),
        "timer_stats",
    )
) | {"/sys/firmware", "/sys/devices/virtual/powercap"}
_ALSO_TELLING = frozenset(
    f"/proc/{name}"
    for name in ("config.gz", "kallsyms", "kmsg", "kpagecount", "kpageflags", "modules", "slabinfo", "vmallocinfo")
)
TELLING = _DOCKER_MASKED | _ALSO_TELLING
"""Files of the kernel that tell a container about the host; below /sys only where there is one."""


def nebh_controls(config: Mapping[str, Any], ruleset: str) -> Controls:
    """Return what Nebh leaves open. config: an OCI config as `render_config` gives it, parsed; ruleset: the nftables
    table as `render_table` gives it."""
    process, linux = config["process"], config["linux"]
    mounts = {one["destination"]: one for one in config["mounts"]}
    base = min((one["hostID"] for one in linux.get("uidMappings", ())), default=0)
    held = frozenset().union(*map(frozenset, process["capabilities"].values()))
    calls = allowed_calls(linux.get("seccomp"))
    left = frozenset(
        path for path in TELLING - set(linux["maskedPaths"]) if path.startswith("/proc/") or "/sys" in mounts
    )
    pids = linux["resources"].get("pids", {}).get("limit", _UNLIMITED)
    memory = linux["resources"].get("memory", {}).get("limit", _UNLIMITED)
    metadata = "169.254.0.0/16" in ruleset and "ip daddr @never4 counter name never drop" in ruleset
    return {
        ROWS[0]: Measure(words="nobody: ids of the service alone", opens=float(base < _OUR_IDS)),
        ROWS[1]: Measure(words=str(process["user"]["uid"]), opens=float(process["user"]["uid"] == 0)),
        ROWS[2]: Measure(words=str(len(held) or "none"), opens=held),
        ROWS[3]: _switch(not process.get("noNewPrivileges"), "on", "off"),
        ROWS[4]: Measure(words=f"{len(calls)} allowed", opens=calls),
        ROWS[5]: _switch(not config["root"]["readonly"], "read-only", "writable"),
        ROWS[6]: _switch("noexec" not in mounts["/tmp"]["options"], "refused", "run"),
        ROWS[7]: _switch("/sys" in mounts, "absent", "read-only"),
        ROWS[8]: Measure(words=f"at most {pids}", opens=float(pids)),
        ROWS[9]: Measure(words="limit required, no swap", opens=float(memory)),
        ROWS[10]: Measure(words=str(len(left) or "none"), opens=left),
        ROWS[11]: _switch(not process.get("apparmorProfile"), "own profile", "none"),
        ROWS[12]: _switch(not metadata, "dropped", "reachable"),
        # a release names images by digest alone, and is signed: rules N1 and N9
        ROWS[13]: Measure(words="by digest, signed", opens=frozenset()),
    }


def allowed_calls(seccomp: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names that a resolved profile lets through, whatever their arguments. Without one: everything."""
    if seccomp is None:
        return frozenset({"everything"})
    rules = seccomp["syscalls"]
    return frozenset(name for one in rules if one["action"] == "SCMP_ACT_ALLOW" for name in one["names"])


def _switch(is_open: bool, closed: str, opened: str) -> Measure:
    return Measure(words=opened if is_open else closed, opens=float(is_open))


# what others publish as their defaults

DOCKER_CAPABILITIES = frozenset(
    {
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
        *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    }
)
_RUNTIME_MORE = frozenset(
    {
        *("adjtimex", "clock_adjtime", "clock_adjtime64", "fanotify_mark", "mknod", "mknodat", "modify_ldt"),
        *("name_to_handle_at", "personality", "process_vm_readv", "process_vm_writev", "ptrace", "remap_file_pages"),
        *("setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "vmsplice"),
    }
)
DOCKER_MORE = _RUNTIME_MORE | {"chroot"}
"""Calls that Docker's default lets through and ours does not (with its 14 capabilities, on x86-64 and arm64). A test
works them out from the published file."""
_PODMAN_MORE = (_RUNTIME_MORE - {"process_vm_readv", "process_vm_writev", "ptrace", "vmsplice"}) | {
    *("chroot", "clone3", "fsconfig", "fsmount", "fsopen", "fspick", "keyctl", "mount", "move_mount", "open_tree"),
    *("pidfd_getfd", "pivot_root", "reboot", "setns", "syslog", "umount", "umount2", "unshare"),
}

SOURCES = {
    "Docker": "moby/moby `oci/defaults.go` and moby/profiles `seccomp/default.json` (commit cd3bed8)",
    "Podman": "containers/common `pkg/config/default.go` and `pkg/seccomp/seccomp.json`; run by root, without options",
    "Kubernetes restricted": "the Pod Security Standard *restricted*; what it leaves open is the runtime's default,\n"
    "  taken to be containerd's, which follows Docker's",
}


def published(ours: Controls) -> dict[str, Controls]:
    """Return the defaults of Docker, Podman and Kubernetes *restricted*. System calls are told by what they let through
    beyond ours."""
    calls = ours[ROWS[4]].opens
    assert isinstance(calls, frozenset)
    docker = _others(user="the image's, often 0", capabilities=DOCKER_CAPABILITIES, calls=calls, more=DOCKER_MORE)
    podman = _others(
        user="the image's, often 0",
        capabilities=DOCKER_CAPABILITIES - {"AUDIT_WRITE", "MKNOD", "NET_RAW"},
        calls=calls,
        more=_PODMAN_MORE,
        pids=2048,
        image="by tag; signature where policy.json asks",
    )
    restricted = _others(
        user="not 0",
        capabilities=frozenset(),
        calls=calls,
        more=_RUNTIME_MORE,
        no_new_privs=True,
        image="by tag; signature where admission asks",
    )
    return {"Docker": docker, "Podman": podman, "Kubernetes restricted": restricted}


def _others(
    *,
    user: str,
    capabilities: Iterable[str],
    calls: frozenset[str],
    more: frozenset[str],
    no_new_privs: bool = False,
    pids: float = _UNLIMITED,
    image: str = "by tag",
) -> Controls:
    held = frozenset(f"CAP_{name}" for name in capabilities)
    return {
        ROWS[0]: Measure(words="root, unless user namespaces are asked for", opens=1.0),
        ROWS[1]: Measure(words=user, opens=float(user != "not 0")),
        ROWS[2]: Measure(words=str(len(held) or "none (one may be added)"), opens=held),
        ROWS[3]: _switch(not no_new_privs, "on", "off"),
        ROWS[4]: Measure(words=f"{len(more)} more", opens=calls | more),
        ROWS[5]: _switch(True, "", "writable"),
        ROWS[6]: _switch(True, "", "run"),
        ROWS[7]: _switch(True, "", "read-only"),
        ROWS[8]: Measure(words="no limit" if pids == _UNLIMITED else f"at most {pids}", opens=float(pids)),
        ROWS[9]: Measure(words="no limit", opens=_UNLIMITED),
        ROWS[10]: Measure(words=f"{len(_ALSO_TELLING)} more", opens=_ALSO_TELLING),
        ROWS[11]: Measure(words="the runtime's profile", opens=0.0),
        ROWS[12]: _switch(True, "", "reachable"),
        ROWS[13]: Measure(words=image, opens=frozenset({"a tag that moves", "no signature"})),
    }


# the page

_PAGE = """\
# Containers beside others

Generated from the code by `make docs`; a test fails when it is out of date. What is compared are defaults: what a
container gets when nobody asks for more or less.

The column *Nebh* is read from the configuration that a node writes for a container (rule N12) and from the rules of its
network; the others from what their projects publish:

{sources}

A container of Nebh is

{counts}

and looser in none.

{table}

A cell ends with how Nebh compares: **<** stricter, = equal.

- *System calls*: names in the profile, on x86-64 and arm64; of the others, what they let through beyond Nebh's, which
  is a part of Docker's. Podman's list is older than some calls that both allow: compared are the calls that it knows.
- *Files of the kernel left readable*: of {telling} that tell a container about the host:
{files}.
- *AppArmor*: equal where the kernel has it on and `apparmor_parser` is installed (Debian); elsewhere nobody has a profile.
- *Cloud metadata*: dropped before connection tracking, whatever a policy opens.
- *Image*: a release names its image by digest and is signed; there is no other way to run one.

Tests: `tests/testing/test_container_controls.py::test_no_row_is_looser_and_most_are_stricter` computes this table,
`tests/testing/test_container_controls.py::test_dockers_calls_are_what_docker_publishes` holds the numbers of system
calls against the published profile, `tests/attacks/test_container_probe.py::test_the_table_is_golden` tries it all from
inside, and `tests/attacks/test_container_probe.py::test_the_program_notices_each_defence_that_is_missing` shows that
the same program finds each of these doors open where they are.
`tests/e2e/test_floods.py::test_the_probe_finds_in_a_whole_cloud_what_it_finds_beside_it` tries it again in a container
that a whole cloud has made, and looks whether it reaches the node, metadata or another service.

## Known ways out

Each is tried on a container of Nebh, and where the defence is absent, to show that the try is a real one
(`tests/attacks/test_container_escapes.py`).

| way | what holds it | test |
|---|---|---|
| CVE-2024-21626: a directory of the host left open in the runtime | only descriptors 0 to 2 reach a container; it starts in `/` | `tests/attacks/test_container_escapes.py::test_no_descriptor_of_the_host_reaches_a_container` |
| CVE-2019-5736: the runtime's program overwritten through `/proc/PID/exe` | user namespace, read-only tree | `tests/attacks/test_container_escapes.py::test_programs_that_come_by_are_not_overwritten` |
| CVE-2025-31133, -52565, -52881: links where devices and masks belong | `/dev` is the runtime's own; nothing writable is shared | `tests/attacks/test_container_escapes.py::test_links_where_devices_belong_mislead_nobody` |
| CVE-2021-30465: a mount point that is a link | mount points are folders, or the image is refused; the runtime resolves inside | `tests/attacks/test_container_escapes.py::test_nothing_is_mounted_through_a_link` |
| archives that name places outside, or write through links | refused by the importer | `tests/attacks/test_container_escapes.py::test_an_archive_writes_nowhere_else_and_would_elsewhere` |
| CVE-2022-0492: a control group's `release_agent` | no mounts, no namespaces, no control groups inside | `tests/attacks/test_container_escapes.py::test_no_release_agent_is_reached` |

The races of the third row need a second container that changes the same files while the first is made; containers of
Nebh share no files that one of them can write, so the tests plant what the race would have planted.

## Floods

A container that floods is held by its limits, and named by an event. Beside each flood a neighbour of the same weight
answers every request and gets at least 80 % of the processor time that its weight entitles it to, by the kernel's
accounts (`tests/e2e/test_floods.py::test_the_neighbour_does_not_notice_a_flood`,
`tests/e2e/test_floods.py::test_the_neighbour_does_not_notice_a_flood_of_connections`).

| flood | held by | event |
|---|---|---|
| processes | `limits.pids` | `instance.process-flood` |
| memory | `limits.memory`, no swap | `instance.memory-flood`, `instance.oom` when it ends by it |
| open files and sockets | 4096 for each process, and its memory | `instance.descriptor-flood` |
| data in `/tmp`, `/dev/shm` | `limits.tmp`, `limits.shm` | `instance.tmp-full`, `instance.shm-full` |
| files in `/tmp`, `/dev/shm` | one for each KiB of that | `instance.tmp-crowded`, `instance.shm-crowded` |
| output | `limits.log`; its log writer gets 5 % of a processor | `instance.log-flood` |
| connections | 4096 tracked for each instance | `instance.connection-flood` |
"""


def render_page(ours: Controls) -> str:
    """Return docs/security-containers.md."""
    others = published(ours)
    verdicts = {name: compare(ours, theirs) for name, theirs in others.items()}
    counts = "\n".join(
        f"- stricter in {list(rows.values()).count(Verdict.STRICTER)} of {len(ROWS)} rows than {_of(name)}"
        for name, rows in verdicts.items()
    )
    lines = [f"| | Nebh | {' | '.join(others)} |", "|---" * (len(others) + 2) + "|"]
    for row in ROWS:
        cells = [f"{theirs[row].words} {_MARKS[verdicts[name][row]]}" for name, theirs in others.items()]
        lines.append(f"| {row} | {ours[row].words} | {' | '.join(cells)} |")
    return _PAGE.format(
        sources="\n".join(f"- {name}: {text}" for name, text in SOURCES.items()),
        counts=counts,
        table="\n".join(lines),
        telling=len(TELLING),
        files=textwrap.fill(
            ", ".join(f"`{path}`" for path in sorted(TELLING)),
            118,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        ),
    )


_MARKS = {Verdict.STRICTER: "**<**", Verdict.EQUAL: "=", Verdict.LOOSER: "looser"}


def _of(name: str) -> str:
    return {"Kubernetes restricted": "Kubernetes' *restricted*"}.get(name, f"{name}'s default")
