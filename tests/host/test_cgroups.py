"""Both layouts of control groups, on plain files; the real hierarchy is driven by tests/drivers/containers."""

from __future__ import annotations

import pytest

from nebh.host.cgroups import CgroupTree
from nebh.model.errors import Broken


@pytest.fixture
def v2(tmp_path):
    for folder in ("", "nebh.slice", "nebh.slice/holder.service", "nebh.slice/holder.service/conmon"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (tmp_path / folder / "cgroup.subtree_control").write_text("")
    return CgroupTree(parent="nebh.slice/holder.service", v2=True, root=tmp_path)


def test_version_2_writes_below_a_delegated_folder_only(v2):
    v2.prepare()
    written = {
        str(path.parent.relative_to(v2.root))
        for path in v2.root.rglob("cgroup.subtree_control")
        if path.read_text() == "+cpu +memory +pids"
    }
    assert written == {"nebh.slice/holder.service", "nebh.slice/holder.service/conmon"}


def test_version_2_hands_controllers_down_where_nobody_did(v2):
    (v2.root / v2.parent / "cgroup.controllers").write_text("\n")
    v2.prepare()
    written = [path for path in v2.root.rglob("cgroup.subtree_control") if path.read_text() == "+cpu +memory +pids"]
    assert len(written) == 4


def test_version_2_counters_and_throttle(v2):
    folder = v2.root / v2.parent / "web-1-0-1"
    folder.mkdir()
    (folder / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 1\n")
    (folder / "memory.current").write_text("4096\n")
    (folder / "cpu.stat").write_text("usage_usec 77\nthrottled_usec 5\n")
    seen = (v2.oom_kills("web-1-0-1"), v2.memory_bytes("web-1-0-1"), v2.cpu_us("web-1-0-1"))
    assert (*seen, v2.throttled_us("web-1-0-1")) == (1, 4096, 77, 5)
    assert v2.oom_kills("gone") == 0
    (conmon,) = v2.enter_conmon("web-1-0-1")
    v2.throttle_conmon("web-1-0-1")
    assert (conmon / "cpu.max").read_text() == "5000 100000"
    assert v2.path_of("web-1-0-1") == "/nebh.slice/holder.service/web-1-0-1"
    assert v2.instances() == {"web-1-0-1"}


def test_a_missing_controller_is_named(tmp_path):
    for name in ("cpu", "pids"):
        (tmp_path / name).mkdir()
    with pytest.raises(Broken, match="memory"):
        CgroupTree(parent="nebh", v2=False, root=tmp_path).prepare()


def test_version_1_has_one_folder_per_controller(tmp_path):
    for name in ("cpu", "cpuacct", "memory", "pids"):
        (tmp_path / name).mkdir()
    tree = CgroupTree(parent="nebh", v2=False, root=tmp_path)
    tree.prepare()
    assert len(tree.enter_conmon("web-1-0-1")) == 3
    tree.throttle_conmon("web-1-0-1")
    assert (tmp_path / "cpu/nebh/conmon/web-1-0-1/cpu.cfs_quota_us").read_text() == "5000"
    assert tree.instances() == {"web-1-0-1"}
