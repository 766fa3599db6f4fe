"""Control groups of this machine, in folders of our own: what is started in them stays in them, we do not."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import pytest

from nebh.host import membership
from nebh.host.cgroups import CONTROLLERS, ROOT

pytestmark = pytest.mark.root


@pytest.fixture
def groups():
    if not (ROOT / "pids" / "tasks").exists():
        pytest.skip("this machine has control groups of version 2 only")
    made = tuple(ROOT / name / f"nt-{secrets.token_hex(4)}" for name in CONTROLLERS)
    for folder in made:
        folder.mkdir()
    yield made
    for folder in made:
        folder.rmdir()


@contextlib.contextmanager
def started(folders):
    """Start a process inside, for as long as this lasts; gives whether we could go there, and its pid."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with membership.inside(folders) as entered:
        pid = os.posix_spawn("/bin/cat", ("cat",), {}, file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)])
    os.close(reading)
    try:
        yield entered, pid
    finally:
        os.close(writing)
        os.waitpid(pid, 0)


def members(folder) -> set[int]:
    return set(map(int, (folder / "cgroup.procs").read_text().split()))


def test_what_is_started_inside_stays_there(groups):
    own = Path("/proc/self/cgroup").read_text()
    with started(groups) as (entered, pid):
        if not entered:
            pytest.skip("this machine shows other control groups than it has")
        assert [members(folder) for folder in groups] == [{pid}] * 3
        assert Path("/proc/self/cgroup").read_text() == own


def test_a_folder_that_is_not_there_is_told_and_leaves_us_at_home(groups):
    own = Path("/proc/self/cgroup").read_text()
    with pytest.raises(FileNotFoundError), membership.inside((*groups[:2], ROOT / "pids" / "nt-none")):
        pass
    assert Path("/proc/self/cgroup").read_text() == own


def test_where_we_cannot_go_ourselves_a_process_is_moved(groups, monkeypatch):
    monkeypatch.setattr(membership, "_homes", dict)
    with started(groups) as (entered, pid):
        assert (entered, [members(folder) for folder in groups]) == (False, [set()] * 3)
        membership.enter(groups, pid)
        assert [members(folder) for folder in groups] == [{pid}] * 3
        membership.wait_ahead()
