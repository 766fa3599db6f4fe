"""What every volume driver promises, asked of all of them, the fake too."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat

import pytest

from nebh.drivers.volumes import browse
from nebh.drivers.volumes.base import Unable
from nebh.drivers.volumes.fake import FakeVolumes
from nebh.model.errors import BadInput, Conflict, Failed, NotFound
from nebh.model.stored import Ability, ChangeKind, FileKind, VolumePlan
from nebh.testing.tree_look import observe_tree

MIB = 1 << 20
NAME = "db.data.0"


def names(driver, volume=NAME):
    (found,) = [one for one in driver.list() if one.name == volume]
    return [one.name for one in found.snapshots]


def test_volumes_come_and_go(driver):
    assert driver.list() == ()
    for _ in range(2):
        place = driver.make(VolumePlan(name=NAME, quota=8 * MIB, uid=os.geteuid(), gid=os.getegid()))
        assert place == driver.path(NAME)
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        (place / "file").write_text("one")
    other = driver.make(VolumePlan(name="web.data.11"))
    assert other != place
    assert list(other.iterdir()) == []
    assert [(one.name, one.quota) for one in driver.list()] == [(NAME, 8 * MIB), ("web.data.11", 0)]
    for _ in range(2):
        driver.remove("web.data.11")
    assert [one.name for one in driver.list()] == [NAME]
    assert (place / "file").read_text() == "one"
    driver.check()
    driver.upkeep()


def test_a_snapshot_comes_back_and_what_it_replaced_is_kept(driver):
    (driver.make(VolumePlan(name=NAME)) / "file").write_text("one")
    driver.snapshot(NAME, "r1")
    (driver.path(NAME) / "file").write_text("two")
    (driver.path(NAME) / "more").mkdir()
    driver.restore(NAME, "r1", keep_as="undo-7")
    place = driver.path(NAME)
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == "one"
    assert [(one.name, one.discarded) for one in driver.list()[0].snapshots] == [("r1", False), ("undo-7", True)]
    (place / "file").write_text("three")
    driver.restore(NAME, "r1", keep_as="undo-7")  # it is done: what was written since stays
    driver.delete_snapshot(NAME, "r1")
    driver.restore(NAME, "r1", keep_as="undo-7")
    assert (driver.path(NAME) / "file").read_text() == "three"
    driver.restore(NAME, "undo-7", keep_as="undo-8")
    assert (driver.path(NAME) / "file").read_text() == "two"
    assert (driver.path(NAME) / "more").is_dir()
    driver.delete_snapshot(NAME, "undo-7")
    driver.restore(NAME, "undo-7", keep_as="undo-8")
    assert names(driver) == ["undo-8"]


def test_a_snapshot_comes_from_elsewhere_in_one_step(driver):
    (driver.make(VolumePlan(name=NAME)) / "file").write_text("one")

    def fill(place):
        place.mkdir(mode=0o750)
        (place / "file").write_text("from elsewhere")
        (place / "folder").mkdir()
        (place / "folder" / "more").symlink_to("/etc/passwd")

    def fail(place):
        fill(place)
        raise Failed("the store does not answer")

    if not can_receive(driver):
        with pytest.raises(Unable):
            driver.receive(NAME, "b1", fill)
        return
    with pytest.raises(Failed, match="does not answer"):
        driver.receive(NAME, "b1", fail)
    assert names(driver) == []
    for one in (fill, fail):  # it is there: nothing is asked for again
        driver.receive(NAME, "b1", one)
    assert names(driver) == ["b1"]
    assert (driver.path(NAME) / "file").read_text() == "one"
    kept = driver.snapshot_path(NAME, "b1")
    assert sorted(path.name for path in kept.iterdir()) == ["file", "folder"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o750
    driver.restore(NAME, "b1", keep_as="undo")
    assert (driver.path(NAME) / "file").read_text() == "from elsewhere"
    assert (driver.path(NAME) / "folder" / "more").is_symlink()
    (driver.path(NAME) / "file").write_text("it can be written to")
    driver.restore(NAME, "undo", keep_as="redo")
    assert (driver.path(NAME) / "file").read_text() == "one"
    with pytest.raises(NotFound):
        driver.receive("no.data.0", "b1", fill)
    with pytest.raises(BadInput):
        driver.receive(NAME, "../b", fill)


def can_receive(driver) -> bool:
    """Storage of declared commands takes its snapshots itself."""
    return type(driver).__name__ != "CommandVolumes"


def test_a_second_snapshot_of_a_name_is_the_first(driver):
    (driver.make(VolumePlan(name=NAME)) / "file").write_text("one")
    driver.snapshot(NAME, "r1")
    (driver.path(NAME) / "file").write_text("two")
    driver.snapshot(NAME, "r1")
    driver.snapshot(NAME, "r2")
    assert names(driver) == ["r1", "r2"]
    driver.restore(NAME, "r1", keep_as="undo")
    assert (driver.path(NAME) / "file").read_text() == "one"
    for _ in range(2):
        driver.delete_snapshot(NAME, "r1")
    assert names(driver) == ["r2", "undo"]


def test_what_is_replaced_never_takes_the_place_of_another_snapshot(driver):
    (driver.make(VolumePlan(name=NAME)) / "file").write_text("one")
    driver.snapshot(NAME, "r1")
    driver.snapshot(NAME, "r2")
    (driver.path(NAME) / "file").write_text("two")
    with pytest.raises(Conflict):
        driver.restore(NAME, "r1", keep_as="r2")
    with pytest.raises(NotFound):
        driver.restore(NAME, "r9", keep_as="undo")
    assert (driver.path(NAME) / "file").read_text() == "two"
    assert names(driver) == ["r1", "r2"]


def test_clones_are_volumes_of_their_own(driver):
    (driver.make(VolumePlan(name=NAME)) / "file").write_text("one")
    driver.snapshot(NAME, "r1")
    (driver.path(NAME) / "file").write_text("two")
    for _ in range(2):
        old = driver.clone(NAME, snapshot="r1", to=VolumePlan(name="db.try.0", quota=8 * MIB))
        now = driver.clone(NAME, to=VolumePlan(name="db.try.1"))
    assert (old / "file").read_text() == "one"
    assert (now / "file").read_text() == "two"
    (old / "file").write_text("tried")
    assert (driver.path(NAME) / "file").read_text() == "two"
    assert (driver.snapshot_path(NAME, "r1") / "file").read_text() == "one"
    assert [one.name for one in driver.list()] == [NAME, "db.try.0", "db.try.1"]
    with pytest.raises(Conflict):
        driver.clone(NAME, to=VolumePlan(name="db.try.0"))
    driver.snapshot("db.try.0", "r1")
    driver.remove(NAME)
    assert (driver.path("db.try.0") / "file").read_text() == "tried"


def test_it_is_found_again(driver, volume_storage):
    if isinstance(driver, FakeVolumes):
        pytest.skip("the fake forgets")
    (driver.make(VolumePlan(name=NAME, quota=9 * MIB)) / "file").write_text("one")
    driver.snapshot(NAME, "r1")
    driver.restore(NAME, "r1", keep_as="undo")
    before = driver.list()
    another = volume_storage()
    another.open()
    assert another.list() == before
    assert another.path(NAME) == driver.path(NAME)
    assert another.list()[0].quota == 9 * MIB
    assert another.list()[0].snapshots[0].taken_at > 0


HOSTILE_NAMES = (
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    ".gone",
    "A",
    "a b",
    "-rf",
    "a..b",
    "x" * 200,
    "a\n",
    "a\0b",
    "ä",
)


def verbs_with(driver, bad):
    return (
        lambda: driver.make(VolumePlan(name=bad)),
        lambda: driver.remove(bad),
        lambda: driver.path(bad),
        lambda: driver.snapshot(bad, "r1"),
        lambda: driver.snapshot(NAME, bad),
        lambda: driver.snapshot_path(NAME, bad),
        lambda: driver.restore(bad, "r1", keep_as="undo"),
        lambda: driver.restore(NAME, bad, keep_as="undo"),
        lambda: driver.restore(NAME, "r1", keep_as=bad),
        lambda: driver.delete_snapshot(bad, "r1"),
        lambda: driver.delete_snapshot(NAME, bad),
        lambda: driver.clone(NAME, to=VolumePlan(name=bad)),
        lambda: driver.usage(bad),
        lambda: driver.resize(bad, 1),
    )


def test_a_name_that_could_be_a_path_is_refused(driver):
    driver.make(VolumePlan(name=NAME))
    driver.snapshot(NAME, "r1")
    for bad in HOSTILE_NAMES:
        for refused in verbs_with(driver, bad):
            with pytest.raises(BadInput):
                refused()
    assert [one.name for one in driver.list()] == [NAME]
    assert names(driver) == ["r1"]


def test_what_is_not_there_is_said(driver):
    for verb in (
        lambda: driver.path(NAME),
        lambda: driver.snapshot(NAME, "r1"),
        lambda: driver.restore(NAME, "r1", keep_as="undo"),
        lambda: driver.usage(NAME),
        lambda: driver.resize(NAME, 1),
        lambda: driver.clone(NAME, to=VolumePlan(name="db.try.0")),
        lambda: driver.files(NAME),
    ):
        with pytest.raises(NotFound, match=NAME):
            verb()
    driver.make(VolumePlan(name=NAME))
    for verb in (
        lambda: driver.snapshot_path(NAME, "r1"),
        lambda: driver.files(NAME, snapshot="r1"),
        lambda: driver.diff(NAME, older="r1"),
        lambda: driver.clone(NAME, snapshot="r1", to=VolumePlan(name="db.try.0")),
    ):
        with pytest.raises(NotFound, match="r1"):
            verb()
    assert [one.name for one in driver.list()] == [NAME]


def fill_with_everything(place, outside):
    """What a program could leave in its volume."""
    (place / "plain").write_text("plain")
    os.chmod(place / "plain", 0o4750)
    os.utime(place / "plain", ns=(10**18, 10**18 + 1))
    os.link(place / "plain", place / "second name")
    with open(place / "holes", "wb") as file:
        file.truncate(64 * MIB)
        file.seek(32 * MIB)
        file.write(b"x" * 8192)
    (place / "out").symlink_to(outside)
    (place / "out.file").symlink_to(outside / "secret")
    (place / "nowhere").symlink_to("../" * 30 + "etc/passwd")
    (place / "round").symlink_to("round")
    (place / "folder").mkdir(mode=0o751)
    (place / "folder" / "up").symlink_to("..")
    os.mkfifo(place / "pipe")
    for name in (b"new\nline", b"\x1b[31mred", b"not \xff utf-8", b"-rf", b" "):
        (place / os.fsdecode(name)).write_bytes(name)
    with contextlib.suppress(OSError):
        os.setxattr(place / "plain", "user.note", b"kept")
    deep = place
    for _ in range(60):
        deep /= "d"
        deep.mkdir()


def test_everything_a_program_leaves_comes_back_and_nothing_from_outside(driver, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    before = observe_tree(outside), os.stat(outside / "secret").st_mtime_ns
    place = driver.make(VolumePlan(name=NAME))
    fill_with_everything(place, outside)
    there = observe_tree(place)
    driver.snapshot(NAME, "r1")
    shutil.rmtree(place / "d")
    (place / "out").unlink()
    driver.restore(NAME, "r1", keep_as="undo")
    place = driver.path(NAME)
    assert observe_tree(place) == there
    assert os.stat(place / "plain").st_ino == os.stat(place / "second name").st_ino
    assert os.stat(place / "holes").st_blocks * 512 < MIB
    assert place.stat().st_mode == driver.snapshot_path(NAME, "r1").stat().st_mode
    files = {one.path: one for one in driver.files(NAME, snapshot="r1")}
    assert len(files) == len(there)
    assert "not \\xff utf-8" in files
    assert files["out"].kind is FileKind.LINK
    assert files["pipe"].kind is FileKind.OTHER
    assert not [path for path in files if "secret" in path]
    assert driver.diff(NAME, older="r1", contents=True) == ()
    driver.clone(NAME, to=VolumePlan(name="db.try.0"))
    driver.remove("db.try.0")
    driver.delete_snapshot(NAME, "r1")
    driver.remove(NAME)
    assert (observe_tree(outside), os.stat(outside / "secret").st_mtime_ns) == before


def test_differences_are_told(driver):
    place = driver.make(VolumePlan(name=NAME))
    for name in ("same", "changed", "gone", "touched", "a", "a-b"):
        (place / name).write_text("before")
    (place / "folder").mkdir()
    (place / "folder" / "inner").write_text("before")
    driver.snapshot(NAME, "r1")
    (place / "changed").write_text("afterwards")
    (place / "gone").unlink()
    shutil.rmtree(place / "folder")
    (place / "new").symlink_to("/etc")
    state = os.stat(place / "touched")
    (place / "touched").write_text("behind")
    os.utime(place / "touched", ns=(state.st_atime_ns, state.st_mtime_ns))
    driver.snapshot(NAME, "r2")
    expected = [
        ("changed", ChangeKind.CHANGED),
        ("folder", ChangeKind.REMOVED),
        ("folder/inner", ChangeKind.REMOVED),
        ("gone", ChangeKind.REMOVED),
        ("new", ChangeKind.ADDED),
    ]
    assert [(one.path, one.kind) for one in driver.diff(NAME, older="r1", newer="r2")] == expected
    assert [(one.path, one.kind) for one in driver.diff(NAME, older="r1")] == expected
    thorough = driver.diff(NAME, older="r1", contents=True)
    assert [one.path for one in thorough] == ["changed", "folder", "folder/inner", "gone", "new", "touched"]
    assert (thorough[0].before, thorough[0].after) == (6, 10)
    assert len(driver.diff(NAME, older="r1", limit=2)) == 2
    assert len(driver.files(NAME, snapshot="r1", limit=3)) == 3


def test_names_and_differences_come_in_pages(driver):
    """Whatever the pages are cut to, together they tell what one look tells."""
    place = driver.make(VolumePlan(name=NAME))
    for name in ("a", "a/b", "a-b", "c", "c/d", "c/d/e"):
        (place / name).mkdir()
    for name in ("a/b/1", "a/x", "a-b/2", "c/d/e/3", "z", "a.b"):
        (place / name).write_text(name)
    (place / "link").symlink_to("c")
    (place / os.fsdecode(b"bad\xff")).write_text("")
    driver.snapshot(NAME, "r1")
    shutil.rmtree(place / "a")
    (place / "z").write_text("more than before")
    (place / "new").write_text("")
    if Ability.BROWSE not in driver.abilities:
        with pytest.raises(Unable):
            driver.snapshot_path(NAME, "r1")
        return
    old, now = driver.snapshot_path(NAME, "r1"), driver.path(NAME)
    whole = {"files": driver.files(NAME, snapshot="r1"), "changes": driver.diff(NAME, older="r1")}
    for limit in (1, 2, 5, 100):
        for pause in (10.0, 0.0):
            found = {"files": (), "changes": ()}
            for kind in found:
                after = None
                while after != b"":
                    cut = {"after": after or b"", "limit": limit, "seconds": pause}
                    if kind == "files":
                        page, after = browse.list_page(old, under="", deep=True, **cut)
                    else:
                        page, after = browse.compare_page(old, now, **cut)
                    assert len(page) <= limit
                    found[kind] += page
            assert found == whole
    one = {"after": b"", "limit": 100, "seconds": 10.0}
    assert [file.path for file in browse.list_page(old, under="a", deep=False, **one)[0]] == ["a/b", "a/x"]
    assert [file.path for file in browse.list_page(old, under="c/d", deep=True, **one)[0]] == ["c/d/e", "c/d/e/3"]
    for nowhere in ("link", "z", "none", "..", "a/../a"):
        with pytest.raises(NotFound):
            browse.list_page(old, under=nowhere, deep=True, **one)
