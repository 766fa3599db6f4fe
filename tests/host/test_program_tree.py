"""Programs that root runs: only root may be able to change them."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from nebh.host.program_tree import ProgramTree, check_tree, own_tree, unreachable_for_others
from nebh.host.sandbox import reachable_tree
from nebh.model.errors import BadInput

pytestmark = pytest.mark.root


@pytest.fixture
def tree():
    top = Path("/opt") / f"nt-{os.getpid():x}"
    package = top / "src" / "nebh"
    package.mkdir(parents=True)
    (package / "a.py").write_text("")
    (top / "bin").mkdir()
    (top / "bin" / "python").symlink_to("/usr/bin/python3")
    try:
        yield ProgramTree(prefix=top, python=top / "bin" / "python", paths=(top / "src",))
    finally:
        shutil.rmtree(top)


def test_a_tree_of_roots_is_taken(tree):
    check_tree(tree)


@pytest.mark.parametrize("name", ["src/nebh/a.py", "src/nebh", "src", "."])
@pytest.mark.parametrize("change", ["group", "others", "owner"])
def test_anything_that_others_can_change_is_refused(tree, name, change):
    path = tree.prefix / name
    if change == "owner":
        os.chown(path, 65534, 65534)
    else:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o020 if change == "group" else 0o002))
    with pytest.raises(BadInput, match="cannot run these programs as root") as caught:
        check_tree(tree)
    assert "make install" in caught.value.hint


def test_a_sticky_folder_on_the_way_is_refused(tree):
    tree.prefix.chmod(0o1777)
    with pytest.raises(BadInput):
        check_tree(tree)


def test_a_link_leads_to_where_it_leads(tree, tmp_path):
    tree.python.unlink()
    tree.python.symlink_to(tmp_path / "python")
    (tmp_path / "python").touch()
    os.chown(tmp_path / "python", 65534, 65534)
    with pytest.raises(BadInput):
        check_tree(tree)


def test_what_ordinary_users_cannot_reach_is_shown_elsewhere(tree, tmp_path):
    assert unreachable_for_others(tree.paths[0]) is None
    assert reachable_tree(tree, tmp_path) == (tree, ())
    tree.prefix.chmod(0o700)
    assert unreachable_for_others(tree.paths[0]) == tree.prefix
    shown, covers = reachable_tree(tree, tmp_path / "p")
    assert covers == ((tree.prefix, tmp_path / "p" / "0"),)
    assert shown.paths == (tmp_path / "p" / "0" / "src",)
    assert shown.python == tmp_path / "p" / "0" / "bin" / "python"
    assert (tmp_path / "p" / "0").is_dir()


def test_our_own_tree_is_found():
    tree = own_tree()
    assert (tree.paths[0] / "nebh" / "host").is_dir()
    assert tree.argv("agent")[-1] == "nebh.programs.agent"
