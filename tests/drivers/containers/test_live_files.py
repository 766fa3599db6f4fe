"""Files that are replaced under a real, running container: at once, as a set, read by its user and written by nobody."""

from __future__ import annotations

import errno
import os
import time

import pytest

from nebh.drivers.containers import live_files
from nebh.drivers.containers.base import PlacedFile
from nebh.model.errors import Failed
from nebh.testing.container_rig import UID_BASE

pytestmark = pytest.mark.root
ONE = "web-7-0-1"
OWNER = UID_BASE + 10001
# A reader that enters the folder of one set sees one set, whatever is exchanged meanwhile.
READER = "echo up; while true; do cd /dev/nebh/now && cat 0 1 2 | tr '\\n' ' '; cd /; echo; done"
PATHS = ("/etc/app/app.conf", "/etc/app/secret", "/srv/deep/other")


def files(word: str) -> dict[str, PlacedFile]:
    return {
        path: PlacedFile(
            data=f"{word}\n".encode() * 2000, mode=0o400 if path.endswith("secret") else 0o444, owner=OWNER
        )
        for path in PATHS
    }


@pytest.fixture
def places(rig):
    for path in PATHS:
        place = rig.tree / path.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(mode=0o444)
    return rig


def seen(rig, *argv: str) -> str:
    return rig.driver.check(ONE, argv, 20_000).detail


def test_a_running_container_sees_the_new_set_and_can_write_none(places):
    rig = places
    rig.driver.create(rig.plan(ONE, "/bin/sleep", "600", live=files("one")))
    rig.driver.start(ONE)
    for path in PATHS:
        assert "one" in seen(rig, "/bin/busybox", "head", "-n", "1", path)
    assert rig.driver.give_files(ONE, files("two")) == PATHS
    for path in PATHS:
        assert "two" in seen(rig, "/bin/busybox", "head", "-n", "1", path)
    assert "400 10001" in seen(rig, "/bin/busybox", "stat", "-L", "-c", "%a %u", "/etc/app/secret")
    script = (
        "echo x > /etc/app/app.conf; rm /etc/app/secret; ln -sfn x /dev/nebh/now; mv /etc/app/secret /tmp; ls /dev/nebh"
    )
    said = seen(rig, "/bin/sh", "-c", script)
    assert said.count("Read-only file system") + said.count("Permission denied") + said.count("busy") >= 3, said
    assert "two" in seen(rig, "/bin/busybox", "head", "-n", "1", "/etc/app/secret")
    assert (rig.tree / "etc/app/app.conf").read_bytes() == b"", "the image's own file is untouched"
    rig.driver.delete(ONE)
    assert not (rig.folders.bundles / ONE).exists()


def test_no_reader_ever_sees_half_of_a_set(places):
    rig = places
    rig.driver.create(rig.plan(ONE, "/bin/sh", "-c", READER, live=files("one"), log_bytes=64 << 20))
    rig.driver.start(ONE)
    end = time.monotonic() + 30
    words = ["one", "two"]
    for turn in range(1, 40):
        rig.driver.give_files(ONE, files(words[turn % 2]))
        time.sleep(0.005)
    rig.driver.signal(ONE, "KILL")
    while rig.driver.observe(ONE).conmon_alive:
        assert time.monotonic() < end
        time.sleep(0.01)
    lines = rig.driver.read_logs(ONE, "", 100_000).lines[1:-1]
    sets = [set(one.text.split()) for one in lines if one.stream == "stdout"]
    assert {"one"} in sets
    assert {"two"} in sets
    # a set may be gone under a reader that stays in it for two exchanges: then it reads nothing, but never a mixture
    assert all(len(one) <= 1 for one in sets), [one for one in sets if len(one) > 1][:3]
    rig.driver.delete(ONE)


def test_what_cannot_be_written_leaves_the_set_that_was(tmp_path, monkeypatch):
    live_files.lay_out(tmp_path, {path: PlacedFile(data=b"one", mode=0o444, owner=0) for path in PATHS})
    folder = tmp_path / live_files.FOLDER
    before = os.readlink(folder / "now")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fresh = {path: PlacedFile(data=b"two", mode=0o444, owner=0) for path in PATHS}
    for step in ("chown", "readlink"):
        with monkeypatch.context() as patch, pytest.raises(Failed, match="No space left"):
            patch.setattr(live_files.os, step, full)
            live_files.exchange(tmp_path, fresh)
        assert os.readlink(folder / "now") == before
    assert live_files.exchange(tmp_path, fresh) == PATHS
    assert (folder / "now" / "0").read_bytes() == b"two"
    assert sorted(one.name for one in folder.iterdir()) == sorted({before, os.readlink(folder / "now"), "now"})
