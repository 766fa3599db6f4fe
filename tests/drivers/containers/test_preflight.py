"""What a node lacks is said in a sentence, with what gets it."""

from __future__ import annotations

import pytest

from nebh.drivers.containers.preflight import GOOD_CRUN, MIN_CRUN, judge_kernel, judge_version, preflight


@pytest.mark.parametrize(
    ("release", "ok"), [("6.1.0-18-amd64", True), ("5.15.0", True), ("5.10.0-28-amd64", False), ("4.19.0", False)]
)
def test_kernels(release, ok):
    finding = judge_kernel(release)
    assert (finding.ok, bool(finding.remedy)) == (ok, not ok)


@pytest.mark.parametrize(
    ("text", "ok", "silent"),
    [
        ("crun version 1.8.1\ncommit: 12", True, False),
        ("crun version 1.28", True, True),
        ("crun version 1.0", False, False),
        ("", False, False),
    ],
)
def test_versions(text, ok, silent):
    finding = judge_version("crun", text, least=MIN_CRUN, good=GOOD_CRUN, package="crun")
    assert (finding.ok, not finding.remedy) == (ok, silent)


@pytest.mark.root
def test_this_machine(rig):
    found = preflight(cgroups=rig.cgroups, launcher=rig.launcher, tree=rig.tree)
    assert [one.sentence for one in found if not one.ok] == []
    missing = preflight(cgroups=rig.cgroups, launcher=rig.launcher, tree=rig.folder / "none", crun="/nonexistent")
    assert [one.ok for one in missing] == [True, False, True, True, False]
    assert all(one.remedy for one in missing if not one.ok)
