"""A file of 2 GB reaches a node whose programs have 512 MB between them, from a publisher that has no more."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.host.cgroups import CgroupTree, find_tree
from nebh.host.run import Command, run
from nebh.model.errors import Broken
from nebh.testing.cloud import PROGRAMS, Cloud
from nebh.testing.tiny_service import HOST, write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1400)]
MIB = 1 << 20
SIZE = 2 << 30
LIMIT = 512 * MIB
ROOM = 16 << 30
ENTER = 'for one in $1; do echo $$ > "$one/cgroup.procs"; done; shift; exec "$@"'


@pytest.fixture
def groups() -> Iterator[CgroupTree]:
    """Control groups for one test: `node` and `publisher`, each with LIMIT of memory, page cache included."""
    tree = find_tree(f"nt-large-{secrets.token_hex(3)}")
    if os.geteuid() != 0 or tree.missing():
        pytest.skip("control groups cannot be made here")
    tree.prepare()
    try:
        yield tree
    finally:
        for name in ("node", "publisher"):
            for folder in folders_of(tree, name):
                for pid in (folder / "cgroup.procs").read_text().split():
                    (folder.parents[1] / "cgroup.procs").write_text(pid)
        try:
            tree.destroy()
        except Broken as error:
            sys.stderr.write(f"{error}\n")


def folders_of(tree: CgroupTree, name: str) -> tuple[Path, ...]:
    return tree.enter_build(name, memory=LIMIT, cpu=2000, pids=4000)


def write_large(path: Path) -> str:
    """Write SIZE bytes that no compression shortens, no two blocks alike; return their SHA-256."""
    block, hasher = os.urandom(MIB), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(SIZE // MIB):
            piece = number.to_bytes(8, "big") + block[8 + number % 4096 :] + block[8 : 8 + number % 4096]
            hasher.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest()


def peak(pid: int) -> int:
    """Return the most memory that a process ever had, in bytes."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) << 10


def most_used(folders: tuple[Path, ...]) -> int:
    """Return the most memory that a group ever had. LIMIT where the kernel does not say it."""
    for folder in folders:
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if (folder / name).exists():
                return int((folder / name).read_text())
    return LIMIT


def killed(folders: tuple[Path, ...]) -> int:
    """Return how many processes of a group the kernel ended for want of memory."""
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):
            if (folder / name).exists():
                words = (folder / name).read_text().split()
                return int(words[words.index("oom_kill") + 1])
    raise AssertionError(f"no memory controller in {folders}")


def test_two_gigabytes_pass_within_512_mb(disk_folder: Path, groups: CgroupTree, request: pytest.FixtureRequest):
    if shutil.disk_usage(disk_folder).free < ROOM:
        pytest.skip(f"needs {ROOM >> 30} GiB of disk")
    cloud: Cloud = request.getfixturevalue("cloud")
    spec = write_service(disk_folder, page="two gigabytes")
    cloud.nebh("deploy", str(spec))
    digest = write_large(disk_folder / "web" / "www" / "large")
    node, publisher = folders_of(groups, "node"), folders_of(groups, "publisher")
    pids = {name: cloud.pid_of(name) for name in PROGRAMS}
    for pid in cloud.processes():
        if Path(f"/proc/{pid}/cmdline").read_bytes().find(b"nebh.programs.") >= 0:
            for folder in node:
                (folder / "cgroup.procs").write_text(str(pid))
    spec.write_text(spec.read_text().replace("startup_timeout: 20s", "startup_timeout: 2m"))
    argv = cloud.inside(*cloud._python("nebh"), "deploy", str(spec))
    inside = ("sh", "-c", ENTER, "sh", " ".join(str(one) for one in publisher), *argv)
    run(Command(argv=inside, env=cloud.env, timeout=1200.0))
    assert {name: cloud.pid_of(name) for name in PROGRAMS} == pids, "one of the programs was ended"
    assert (killed(node), killed(publisher)) == (0, 0)
    for name, folders in (("node", node), ("publisher", publisher)):
        print(f"{name}: at most {most_used(folders) / MIB:.0f} MiB, page cache included")
        assert most_used(folders) > LIMIT / 2, f"the file did not go through the group of the {name}"
    held = cloud.serving("web")[0]
    status, _ = cloud.get(host=HOST)
    assert status == 200
    with Path(f"/proc/{held['pid']}/root/www/large").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    for name, pid in pids.items():
        print(f"{name}: at most {peak(pid) / MIB:.0f} MiB of its own")
        assert peak(pid) < LIMIT / 2
