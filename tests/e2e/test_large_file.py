"""A file of 2 GB reaches a node whose programs have 512 MB between them, from a publisher that has no more."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.host.run import run
from nebh.model.errors import NotFound
from nebh.testing.cloud import PROGRAMS, Cloud
from nebh.testing.memory_groups import MemoryGroup, memory_groups, peak
from nebh.testing.tiny_service import HOST, write_random, write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1400)]
MIB = 1 << 20
SIZE = 2 << 30
LIMIT = 512 * MIB
ROOM = 16 << 30


@pytest.fixture
def groups() -> Iterator[dict[str, MemoryGroup]]:
    """Control groups for one test: `node` and `publisher`, each with LIMIT of memory, page cache included."""
    try:
        with memory_groups("node", "publisher", limit=LIMIT) as made:
            yield made
    except NotFound as error:
        pytest.skip(error.message)


def test_two_gigabytes_pass_within_512_mb(
    disk_folder: Path, groups: dict[str, MemoryGroup], request: pytest.FixtureRequest
):
    if shutil.disk_usage(disk_folder).free < ROOM:
        pytest.skip(f"needs {ROOM >> 30} GiB of disk")
    cloud: Cloud = request.getfixturevalue("cloud")
    spec = write_service(disk_folder, page="two gigabytes")
    cloud.nebh("deploy", str(spec))
    digest = write_random(disk_folder / "web" / "www" / "large", SIZE)
    pids = {name: cloud.pid_of(name) for name in PROGRAMS}
    for pid in cloud.processes():
        if Path(f"/proc/{pid}/cmdline").read_bytes().find(b"nebh.programs.") >= 0:
            groups["node"].enter(pid)
    spec.write_text(spec.read_text().replace("startup_timeout: 20s", "startup_timeout: 2m"))
    deploy = cloud.command("deploy", str(spec))
    run(replace(deploy, argv=groups["publisher"].entering(*deploy.argv), timeout=1200.0))
    assert {name: cloud.pid_of(name) for name in PROGRAMS} == pids, "one of the programs was ended"
    assert [group.killed() for group in groups.values()] == [0, 0]
    for name, group in groups.items():
        print(f"{name}: at most {group.most_used() / MIB:.0f} MiB, page cache included")
        assert group.most_used() > LIMIT / 2, f"the file did not go through the group of the {name}"
    held = cloud.serving("web")[0]
    status, _ = cloud.get(host=HOST)
    assert status == 200
    with Path(f"/proc/{held['pid']}/root/www/large").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    for name, pid in pids.items():
        print(f"{name}: at most {peak(pid) / MIB:.0f} MiB of its own")
        assert peak(pid) < LIMIT / 2
