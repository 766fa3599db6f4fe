"""A program apart sees what it is given, can write where it may, and ends with whoever started it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nebh.host.apart import SECRETS, View, run_apart
from nebh.host.launcher import fork_launcher
from nebh.host.run import Command, CommandFailed, Result
from nebh.model.errors import Failed

pytestmark = pytest.mark.root


@pytest.fixture
def launcher():
    made = fork_launcher()
    yield made
    made.close()


@pytest.fixture
def folders(tmp_path):
    for name in ("read", "write", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "read" / "file").write_text("to be read")
    (tmp_path / "secret" / "file").write_text("not for you")
    return tmp_path


def go(launcher, folders: Path, *argv: str, owns: bool = False, **how) -> Result:
    view = View(root=folders / "root", reads=(folders / "read",), writes=(folders / "write",), owns=owns)
    command = Command(argv=argv, timeout=20, accept=how.pop("accept", (0,)))
    return run_apart(launcher, command, view, network=os.getpid(), given={"password": b"S3CR3T"}, **how)


def test_it_sees_what_it_is_given_and_nothing_else(launcher, folders):
    text = go(launcher, folders, "sh", "-c", f"cat {folders}/read/file {SECRETS}/password; echo; ls / {folders}").text
    assert "to be readS3CR3T" in text
    assert "secret" not in text.split("S3CR3T")[1]
    assert "home" not in text and "root" not in text.split()  # noqa: PT018
    for path in (folders / "secret" / "file", "/root", "/proc/1/environ", "/etc/shadow"):
        assert go(launcher, folders, "ls", str(path), accept=(2,)).status == 2
    assert Path(folders / "secret" / "file").read_text() == "not for you", "the control: it is there"
    assert not list((folders / "root").iterdir()), "nothing of it is seen outside"


def test_it_writes_where_it_may(launcher, folders):
    go(launcher, folders, "touch", f"{folders}/write/made")
    assert (folders / "write" / "made").exists()
    for place in (f"{folders}/read/made", "/made", "/usr/made", str(SECRETS / "made"), "/etc/made"):
        assert go(launcher, folders, "touch", place, accept=(1,)).status == 1


def test_it_owns_only_when_it_may(launcher, folders):
    (folders / "write" / "file").write_text("x")
    assert go(launcher, folders, "chown", "1234", f"{folders}/write/file", accept=(1,)).status == 1
    go(launcher, folders, "chown", "1234", f"{folders}/write/file", owns=True)
    assert (folders / "write" / "file").stat().st_uid == 1234
    assert go(launcher, folders, "mount", "-t", "tmpfs", "x", f"{folders}/write", owns=True, accept=(1, 32)).status


def test_it_has_the_network_it_is_told(launcher, folders):
    names = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
    ours = subprocess.run(["python3", "-c", names], capture_output=True, text=True, check=True).stdout
    assert go(launcher, folders, "python3", "-c", names).text == ours


def test_it_ends_with_whoever_waits_for_it(launcher, folders):
    end = time.monotonic() + 1.0
    with pytest.raises(Failed, match="nobody waits"):
        go(launcher, folders, "sh", "-c", "sleep 4711 & sleep 4711", cancelled=lambda: time.monotonic() > end)
    assert gone("4711")


def test_it_ends_with_its_launcher(folders):
    launcher = fork_launcher()
    end = time.monotonic() + 1.0

    def cancelled() -> bool:
        if time.monotonic() > end:
            os.kill(launcher.pid, signal.SIGKILL)
        return False

    with pytest.raises(Failed):
        go(launcher, folders, "sh", "-c", "sleep 4712 & sleep 4712", cancelled=cancelled)
    assert gone("4712")
    launcher.close()


def test_what_does_not_run_is_said(launcher, folders):
    with pytest.raises(CommandFailed, match="no-such-program"):
        go(launcher, folders, "no-such-program")
    assert shutil.which("no-such-program") is None


def gone(word: str) -> bool:
    """Tell whether no `sleep WORD` runs, a moment later."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if not any(_is(path, word) for path in Path("/proc").glob("[0-9]*/cmdline")):
            return True
        time.sleep(0.05)
    return False


def _is(path: Path, word: str) -> bool:
    try:
        return path.read_bytes() == f"sleep\0{word}\0".encode()
    except OSError:
        return False
