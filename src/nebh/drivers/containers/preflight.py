"""What a node must have before it can run containers, looked at when the executor starts and by `nebh doctor`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nebh.host.cgroups import CONTROLLERS, CgroupTree, hybrid_unified
from nebh.host.launcher import probe_idmap
from nebh.host.run import Command, run
from nebh.host.worker import Worker
from nebh.model.errors import NebhError

MIN_KERNEL = (5, 15)
MIN_CRUN = (1, 8)
GOOD_CRUN = (1, 28)
MIN_CONMON = (2, 1)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One look. ok False = containers cannot run; sentence: what was seen; remedy: what gets it ("" when fine)."""

    ok: bool
    sentence: str
    remedy: str = ""


def preflight(
    *, cgroups: CgroupTree, launcher: Worker, tree: Path, crun: str = "/usr/bin/crun", conmon: str = "/usr/bin/conmon"
) -> tuple[Finding, ...]:
    """Look at kernel, programs, cgroups and id-mapped mounts. tree: the folder trees are kept in (it must exist)."""
    return (
        judge_kernel(os.uname().release),
        _program(crun, least=MIN_CRUN, good=GOOD_CRUN, package="crun"),
        _program(conmon, least=MIN_CONMON, good=MIN_CONMON, package="conmon"),
        _cgroups(cgroups),
        _idmap(launcher, tree),
    )


def judge_kernel(release: str) -> Finding:
    """Judge `uname -r`."""
    version = _version(release)
    if version >= MIN_KERNEL:
        return Finding(ok=True, sentence=f"kernel {release} can map the owners of a read-only tree")
    return Finding(
        ok=False,
        sentence=f"kernel {release} is older than 5.15: it cannot map the owners of a read-only tree",
        remedy="install a newer kernel (Debian 12 has 6.1) and reboot",
    )


def judge_version(program: str, text: str, *, least: tuple[int, ...], good: tuple[int, ...], package: str) -> Finding:
    """Judge what `PROGRAM --version` printed."""
    version = _version(text.splitlines()[0] if text else "")
    shown = ".".join(map(str, version)) or "of unknown version"
    if version < least:
        wanted = ".".join(map(str, least))
        return Finding(
            ok=False, sentence=f"{program} {shown} is older than {wanted}", remedy=f"apt-get install {package}"
        )
    if version < good:
        wanted = ".".join(map(str, good))
        sentence = f"{program} {shown} works, {wanted} and newer are safer"
        return Finding(ok=True, sentence=sentence, remedy=f"a newer {package}, when your distribution has it")
    return Finding(ok=True, sentence=f"{program} {shown} is there")


def _program(path: str, *, least: tuple[int, ...], good: tuple[int, ...], package: str) -> Finding:
    try:
        text = run(Command(argv=(path, "--version"), timeout=10.0)).text
    except (NebhError, OSError):
        return Finding(ok=False, sentence=f"{path} is missing", remedy=f"apt-get install {package}")
    return judge_version(path, text, least=least, good=good, package=package)


def _cgroups(cgroups: CgroupTree) -> Finding:
    mode = "version 2" if cgroups.v2 else "version 1 (hybrid)" if hybrid_unified() else "version 1"
    missing = cgroups.missing()
    if missing:
        return Finding(
            ok=False,
            sentence=f"cgroups are {mode}, without {', '.join(missing)}",
            remedy="boot with `cgroup_enable=memory`, or use Debian's own kernel",
        )
    return Finding(ok=True, sentence=f"cgroups are {mode} with {', '.join(CONTROLLERS)}")


def _idmap(launcher: Worker, tree: Path) -> Finding:
    problem = probe_idmap(launcher, tree)
    if not problem:
        return Finding(ok=True, sentence=f"{tree} can be shown with mapped owners")
    return Finding(
        ok=False,
        sentence=f"{tree} cannot be shown with mapped owners: {problem}",
        remedy="put the state folder on ext4, xfs or btrfs, and allow user namespaces",
    )


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part) if found else ()
