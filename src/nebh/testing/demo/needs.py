"""What the demo needs of the machine, looked at before anything is made."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from nebh.host.run import is_root
from nebh.model.quantities import render_size

DISK = 2 << 30
MEMORY = 900 << 20
PROGRAMS = ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "curl", "nsenter", "apt-get", "dpkg-deb")


def problems_of(places: tuple[Path, ...]) -> list[str]:
    """Return what is missing, in words that say what helps; nothing when the demo can begin."""
    if not is_root():
        return ["it starts containers, which needs root: sudo make demo"]
    found = []
    searched = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=searched) is None]
    if missing:
        found.append(
            f"programs are missing: {', '.join(missing)}; `make demo` installs them with packaging/packages.sh"
        )
    for place in places:
        free = shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free
        if free < DISK:
            found.append(f"{place} has {render_size(free)} free, {render_size(DISK)} are needed")
    free = _free_memory()
    if free < MEMORY:
        found.append(f"{render_size(free)} of memory are free, {render_size(MEMORY)} are needed")
    return found


def say_problems(problems: list[str]) -> bool:
    """Write what is missing to standard error; tell whether there is anything."""
    if problems:
        sys.stderr.write("cannot run the demo:\n" + "".join(f"  {one}\n" for one in problems))
    return bool(problems)


def _free_memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return MEMORY
