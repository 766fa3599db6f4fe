"""What a machine behind SSH must have: one small shell script, and a pure judgement of what it prints."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.drivers.containers.preflight import Finding, judge_kernel
from nebh.model.errors import BadInput
from nebh.model.quantities import render_size

LEAST_DISK = 2 << 30
LEAST_MEMORY = 400 << 20
MOST_SKEW = 60

# plain sh: a fresh machine may have nothing more. $1 state folder, $2 and $3 ports (hex, four digits)
SCRIPT = r"""
set -u
say() { printf '%s=%s\n' "$1" "$2"; }
say user "$(id -u)"
say host "$(uname -n)"
say kernel "$(uname -r)"
say machine "$(uname -m)"
say clock "$(date +%s)"
say python "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
say apt "$(command -v apt-get)"
say system "$(. /etc/os-release 2>/dev/null && echo "$ID ${VERSION_ID:-}")"
say memory_kb "$(awk '/^MemTotal:/ {print $2}' /proc/meminfo)"
place=$1
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
say disk_kb "$(df -Pk "$place" | awk 'NR == 2 {print $4}')"
say disk_type "$(stat -f -c %T "$place" 2>/dev/null)"
[ -d /run/systemd/system ] && say systemd yes || say systemd no
say cgroups "$(cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null || ls /sys/fs/cgroup 2>/dev/null | tr '\n' ' ')"
taken=$(awk -v a="$2" -v b="$3" '$4 == "0A" {p = $2; sub(/.*:/, "", p); if (p == a || p == b) print p}' \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null | sort -u | tr '\n' ' ')
say taken "$taken"
[ -e "$1/node.json" ] && say founded yes || say founded no
"""


@dataclass(frozen=True, kw_only=True)
class RemoteFacts:
    """What the script printed. clock: Unix seconds; memory, disk: bytes; taken: ports that somebody listens on;
    founded: Nebh was there before."""

    user: int
    host: str
    kernel: str
    machine: str
    clock: int
    python: tuple[int, ...]
    apt: bool
    system: str
    memory: int
    disk: int
    disk_type: str
    systemd: bool
    cgroups: frozenset[str]
    taken: tuple[int, ...]
    founded: bool


def parse_facts(text: str) -> RemoteFacts:
    """Return what the script printed. Raises BadInput when something is not as it prints it."""
    lines = (line.partition("=") for line in text.splitlines())
    words = {name: value.strip() for name, found, value in lines if found}
    try:
        return RemoteFacts(
            user=int(words["user"]),
            host=words["host"],
            kernel=words["kernel"],
            machine=words["machine"],
            clock=int(words["clock"]),
            python=tuple(int(part) for part in words["python"].split(".") if part),
            apt=bool(words["apt"]),
            system=words["system"],
            memory=int(words["memory_kb"] or 0) * 1024,
            disk=int(words["disk_kb"] or 0) * 1024,
            disk_type=words["disk_type"],
            systemd=words["systemd"] == "yes",
            cgroups=frozenset(words["cgroups"].split()),
            taken=tuple(int(part, 16) for part in words["taken"].split()),
            founded=words["founded"] == "yes",
        )
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"cannot look at the machine: it answered {text.strip()[-300:]!r}",
            hint="does its login shell print something of its own?",
        ) from error


def judge_facts(facts: RemoteFacts, *, now: int, state: str) -> tuple[Finding, ...]:
    """Judge a machine; now: Unix seconds here. Every failure is one sentence with what gets it."""
    missing = sorted({"cpu", "memory", "pids"} - facts.cgroups)
    skew = facts.clock - now
    old = facts.python < (3, 11) and not (not facts.python and facts.apt)
    looks = [
        _look(facts.user == 0, "you are not root there", "use root@HOST"),
        _look(facts.machine in {"x86_64", "aarch64"}, f"it is {facts.machine}", "use an x86_64 or aarch64 machine"),
        judge_kernel(facts.kernel),
        _look(
            facts.apt,
            f"{facts.system or 'its system'} has no apt-get",
            "use Debian 12 or newer, or Ubuntu 24.04 or newer",
        ),
        _look(
            not old,
            f"its Python is {'.'.join(map(str, facts.python)) or 'missing'}, 3.11 or newer is needed",
            "use Debian 12 or newer",
        ),
        _look(
            facts.disk >= LEAST_DISK,
            f"{render_size(facts.disk)} of disk are free for {state}, {render_size(LEAST_DISK)} are needed",
            "free some, or choose another folder with --state",
        ),
        _look(
            facts.disk_type not in {"tmpfs", "ramfs"},
            f"{state} is in memory, and gone after a reboot",
            "choose --state",
        ),
        _look(
            facts.memory >= LEAST_MEMORY,
            f"it has {render_size(facts.memory)} of memory, {render_size(LEAST_MEMORY)} are needed",
            "use a larger machine",
        ),
        _look(
            abs(skew) <= MOST_SKEW,
            f"its clock is {abs(skew)} s {'ahead' if skew > 0 else 'behind'}",
            "set it there: `timedatectl set-ntp true`, or `date -s`",
        ),
        _look(
            not missing, f"it shows no control group controller {', '.join(missing)}", "boot with cgroup_enable=memory"
        ),
    ]
    if not facts.founded:
        looks += [
            _look(False, f"port {port} is taken there", "stop who has it (`ss -ltnp`), or choose another: --http-port")
            for port in facts.taken
        ]
    return tuple(looks)


def _look(ok: bool, sentence: str, remedy: str) -> Finding:
    return Finding(ok=ok, sentence=sentence, remedy="" if ok else remedy)
