"""What build commands can reach and use: nothing but their folder. Each wall has a control that shows what it stops."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from pathlib import Path

import pytest

from nebh.host.build_sandbox import Bounds, BuildSandbox, SandboxEnd, give_to_builder, sandbox_folder
from nebh.model.errors import NotFound
from nebh.testing.container_rig import busybox

pytestmark = pytest.mark.slow

MIB = 1 << 20
SH = ("/bin/busybox", "sh", "-e", "-c")


@pytest.fixture
def root():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    try:
        program = busybox()
    except NotFound as error:
        pytest.skip(error.message)
    with sandbox_folder() as folder:
        for name in ("bin", "dev", "proc", "tmp", "etc"):
            (folder / name).mkdir()
            give_to_builder(folder / name)
        shutil.copy(program, folder / "bin" / "busybox")
        end = sandbox(folder).run(("/bin/busybox", "true"))
        if end.status:
            pytest.skip(f"this machine lets us make no sandbox: {end.tail.strip()[:200]}")
        yield folder


def sandbox(
    root: Path, *, memory: int = 256 * MIB, disk: int = 64 * MIB, seconds: float = 60.0, **more
) -> BuildSandbox:
    bounds = Bounds(memory=memory, disk=disk, cpu=1000, seconds=seconds)
    return BuildSandbox(root=root, bounds=bounds, **more)


def shell(root: Path, text: str, **more) -> SandboxEnd:
    return sandbox(root, **more).run((*SH, f"PATH=/bin; b=/bin/busybox; {text}"))


def test_output_status_and_environment_come_through(root):
    lines: list[str] = []
    box = BuildSandbox(root=root, bounds=sandbox(root).bounds, env={"COLOUR": "red"})
    end = box.run((*SH, "echo one; echo $COLOUR >&2; /bin/busybox env; exit 7"), heard=lines.append)
    assert (end.status, end.reason) == (7, "")
    assert lines[:2] == ["one", "red"]
    assert not [line for line in lines if line.startswith(("HOME=/root", "USER=", "SSH", "AWS"))]


def test_it_reaches_no_address_of_this_machine_and_the_control_does(root):
    with socket.create_server(("127.0.0.1", 0)) as server:
        met: list[str] = []

        def accept() -> None:
            while True:
                try:
                    one, _ = server.accept()
                except OSError:
                    return
                met.append("met")
                one.close()

        threading.Thread(target=accept, daemon=True).start()
        text = f"$b nc -w 3 127.0.0.1 {server.getsockname()[1]} </dev/null"
        assert shell(root, text).status != 0
        assert met == []
        assert "lo" in shell(root, "$b cat /proc/net/dev").tail
        assert [line for line in shell(root, "$b cat /proc/net/route").tail.splitlines() if "Iface" not in line] == []
        shell(root, text, host_network=True)
        assert met == ["met"], "the control reached nothing: the test shows nothing"
        server.shutdown(socket.SHUT_RDWR)


def test_it_sees_no_file_of_this_machine_and_the_control_does(root, tmp_path):
    secret = Path("/etc/hostname")
    assert shell(root, f"$b cat {secret}").status != 0
    assert shell(root, "$b ls /root /home /var /usr /sys").status != 0
    assert shell(root, f"$b cat {secret}", host_files=(secret,)).status == 0


def test_it_sees_no_process_of_this_machine_and_is_nobody(root):
    end = shell(
        root, "for p in /proc/[0-9]*; do echo $p; done; $b grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"
    )
    assert end.status == 0
    assert f"/proc/{os.getpid()}\n" not in end.tail
    assert len([line for line in end.tail.splitlines() if line.startswith("/proc/")]) < 6
    assert end.tail.count("0000000000000000") == 2
    assert "NoNewPrivs:\t1" in end.tail
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname"):
        assert shell(root, f"echo x > {path}").status != 0, path


def test_it_makes_no_namespace_mounts_nothing_and_makes_no_device(root):
    for text in ("$b unshare -U true", "$b mount -t tmpfs x /tmp", "$b mknod /tmp/d b 8 0", "$b chroot / true"):
        assert shell(root, text).status != 0, text


def test_a_command_that_hangs_is_ended(root):
    assert "longer than" in shell(root, "$b sleep 1000", seconds=1.0).reason


def test_a_command_that_ends_leaves_no_process(root):
    mark = f"{os.getpid()}7"
    assert shell(root, f"$b sleep {mark} & exit 0").status == 0
    running = [one for one in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in _read(one)]
    assert not running


def test_a_command_that_fills_the_disk_is_ended(root):
    end = shell(
        root, "i=0; while true; do i=$((i+1)); $b dd if=/dev/zero of=/tmp/$i bs=1M count=8; done", disk=40 * MIB
    )
    assert end.reason.startswith("it wrote more than")
    for left in (root / "tmp").iterdir():
        left.unlink()
    end = shell(root, "$b dd if=/dev/zero of=/tmp/one bs=1M count=500", disk=40 * MIB)
    assert end.status
    assert (root / "tmp" / "one").stat().st_size <= 40 * MIB


@pytest.mark.root
def test_a_command_that_takes_all_memory_is_ended(root):
    text = "$b dd if=/dev/zero of=/dev/null bs=200M count=1"
    assert shell(root, text, memory=512 * MIB).status == 0
    assert shell(root, text, memory=64 * MIB).status != 0


@pytest.mark.root
def test_no_cgroup_stays(root, monkeypatch):
    name = f"test{os.getpid()}"
    monkeypatch.setattr("nebh.host.build_sandbox.secrets.token_hex", lambda _: name)
    top, seen = Path("/sys/fs/cgroup"), []

    def look(_: str) -> None:
        seen.extend([*top.glob(f"*/nebh-build-{name}"), *top.glob(f"nebh-build-{name}")])

    assert sandbox(root).run((*SH, "echo up; /bin/busybox sleep 1"), heard=look).status == 0
    assert seen, "the command ran without a cgroup of its own"
    seen.clear()
    look("")
    assert not seen


def test_its_files_belong_to_nobody_of_importance(root):
    shell(root, "echo x > /tmp/made; $b chmod 4755 /tmp/made")
    assert (root / "tmp" / "made").stat().st_uid != 0 or os.geteuid() != 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
