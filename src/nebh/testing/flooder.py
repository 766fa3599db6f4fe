"""A service that floods when it is told to (flooder.c beside this), and its neighbours, which are the same program."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from nebh.host.cgroups import CgroupTree
from nebh.model.errors import Failed
from nebh.testing.cloud import Cloud
from nebh.testing.static_program import compile_static

_SPEC = """name: {name}
image: {{dir: ./{name}}}
argv: [/bin/flooder, "8080"]
ports: {{http: 8080}}
routes: [{{host: {name}.example, port: http}}]
limits: {{memory: {memory}, pids: {pids}, log: 1M}}
health:
  startup_timeout: 60s
  readiness: {{http: {{port: http, path: /}}, interval: 200ms, timeout: 60s, failures: 60}}
stop: {{signal: KILL, grace: 1s}}
update: {{bake: 0s, drain: 1s}}
"""


def compile_flooder(folder: Path) -> Path:
    """Compile the program into `folder`. Raises NotFound without a compiler."""
    return compile_static(Path(__file__).with_name("flooder.c"), folder / "flooder")


def write_flooder(
    folder: Path, name: str, programs: Sequence[Path], *, memory: str = "64M", pids: int = 32, more: str = ""
) -> Path:
    """Write the image and the spec `<name>.yaml` of a service that answers at `<name>.example`; return the spec.

    programs: files for /bin, the flooder among them. more: lines for the end of the spec."""
    image = folder / name / "bin"
    image.mkdir(parents=True, exist_ok=True)
    for program in programs:
        shutil.copy(program, image)
    spec = folder / f"{name}.yaml"
    spec.write_text(_SPEC.format(name=name, memory=memory, pids=pids) + more)
    return spec


def address_of(cloud: Cloud, service: str) -> str:
    """Return the IPv4 address under which others reach a service, as its names are told. Raises Failed."""
    text = "\n".join(path.read_text() for path in cloud.layout.dns.glob("*") if path.is_file())
    found = re.search(rf"(\d+\.\d+\.\d+\.\d+)\s+{service}\b", text)
    if found is None:
        raise Failed(f"no name of {service} is told on this node")
    return found[1]


def end_flood(tree: CgroupTree, instance: str, server: int, *, patience: float = 30.0) -> None:
    """Kill all processes of a flooding container but its server, and empty its /tmp. Raises Failed, also when the
    server is none of its processes. A container that ended instead would be started again later and later."""
    if server not in tree.members(instance):
        raise Failed(f"process {server} is not of {instance}")
    kill_others(tree, instance, server, patience=patience)
    tmp = Path(f"/proc/{server}/root/tmp")
    with contextlib.suppress(OSError):
        if tmp.stat().st_dev != Path("/tmp").stat().st_dev:  # never the machine's own
            for path in tmp.iterdir():
                path.unlink()


def kill_others(tree: CgroupTree, instance: str, server: int, *, patience: float) -> None:
    """Kill all processes of a container but one. All are stopped before any is killed: those left would fork on.
    Raises Failed after `patience` seconds."""
    end = time.monotonic() + patience
    while left := [pid for pid in tree.members(instance) if pid != server and not _is_over(pid)]:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        if time.monotonic() > end:
            raise Failed(f"{instance} still floods after {patience:g} s: {len(left)} processes")
        time.sleep(0.01)


def _is_over(pid: int) -> bool:
    """Tell whether a process has ended; its parent, the server, learns it at the next request."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
