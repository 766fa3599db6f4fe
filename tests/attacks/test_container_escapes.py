"""The ways out of containers that runtimes and importers had in recent years, as fixtures. Each is tried on what Nebh
makes, and beside it where the defence is absent, to show that the fixture would do its harm there."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nebh.drivers.containers.base import ContainerPlan
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.report import ImportLimits
from nebh.model.errors import BadInput, Failed, NotFound
from nebh.model.service import ImageSource, SourceKind
from nebh.testing.container_rig import ContainerRig, private_rig, sample_policy
from nebh.testing.static_program import compile_static

ONE = "web-7-0-1"
CRUN = Path("/usr/bin/crun")
SECRET = "a secret of the host"


@pytest.fixture
def rig() -> Iterator[ContainerRig]:
    try:
        with private_rig() as made:
            yield made
    except NotFound as error:
        pytest.skip(f"{error}: {error.hint}")


def changed(plan: ContainerPlan, change: Callable[[dict[str, Any]], object]) -> ContainerPlan:
    """Return the plan with a config that Nebh would not write."""
    config = json.loads(plan.config)
    change(config)
    return dataclasses.replace(plan, config=json.dumps(config).encode())


# CVE-2024-21626: a directory of the host stays open in the runtime; the container works from /proc/self/fd/N

READS_WHAT_LEAKED = "for n in $(seq 3 200); do cat /proc/self/fd/$n/secret; done 2>/dev/null; echo looked"


@pytest.fixture
def open_folder(rig: ContainerRig) -> Iterator[int]:
    """A directory of the host that somebody here keeps open for whatever is started."""
    folder = rig.folder / "host"
    folder.mkdir()
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "secret").chmod(0o644)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)
    yield descriptor
    os.close(descriptor)


def run_bare(
    rig: ContainerRig, change: Callable[[dict[str, Any]], object], *words: str, third: str = "/dev/null"
) -> str:
    """Run a container by the runtime alone, as somebody careless would; return what it printed. third: what is open as
    descriptor 3 (opened by the shell: in this process the number is taken)."""
    bundle = rig.folder / "bare"
    bundle.mkdir(exist_ok=True)
    config = json.loads(rig.plan(ONE, "/bin/sh", "-c", "true").config)
    config["root"] = {"path": str(rig.tree), "readonly": False}
    config["mounts"] = [one for one in config["mounts"] if one["type"] != "bind"]
    config["linux"].pop("resources")
    change(config)
    (bundle / "config.json").write_text(json.dumps(config))
    root = ("--root", str(rig.folder / "bare-crun"), "--cgroup-manager=disabled")
    # a runtime of this age refuses to look at hybrid hierarchies
    script = 'u=/sys/fs/cgroup/unified; [ ! -d $u ] || mount -t tmpfs none $u; third=$1; shift; exec "$@" 3<"$third"'
    apart = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", third)
    argv = [*apart, str(CRUN), *root, "run", *words, "-b", str(bundle), "bare"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.root
def test_no_descriptor_of_the_host_reaches_a_container(rig: ContainerRig, open_folder: int) -> None:
    late = ContainerRig(rig.folder)  # its launcher is forked while the directory is open
    try:
        plan = late.plan(ONE, "/bin/sh", "-c", f"{READS_WHAT_LEAKED}; sleep 60")
        assert json.loads(plan.config)["process"]["cwd"] == "/"
        late.driver.create(plan)
        late.driver.start(ONE)
        check = late.driver.check(ONE, ("/bin/sh", "-c", READS_WHAT_LEAKED), 20_000)
        assert check.ok
        assert "looked" in check.detail
        assert SECRET not in check.detail
        end = time.monotonic() + 30
        while "looked" not in (said := [line.text for line in late.driver.read_logs(ONE, "", 1000).lines]):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert SECRET not in said
    finally:
        late.driver.delete(ONE)
        late.launcher.close()


@pytest.mark.root
def test_control_a_leaked_descriptor_is_a_way_out(rig: ContainerRig, open_folder: int) -> None:
    def work_there(config: dict[str, Any]) -> None:
        config["process"] |= {"args": ["/bin/cat", "secret"], "cwd": "/proc/self/fd/3"}

    folder = os.readlink(f"/proc/self/fd/{open_folder}")
    assert SECRET in run_bare(rig, work_there, "--preserve-fds", "1", third=folder)


# CVE-2019-5736: the runtime's own program, or that of a check, is overwritten through /proc/PID/exe


@pytest.fixture
def writer(rig: ContainerRig) -> None:
    """The program that overwrites programs, in the tree."""
    try:
        compile_static(Path(__file__).with_name("programs") / "exe_writer.c", rig.tree / "bin" / "exe-writer")
    except NotFound as error:
        pytest.skip(f"{error}: {error.hint}")


def digests(*paths: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.mark.root
def test_programs_that_come_by_are_not_overwritten(rig: ContainerRig, writer: None) -> None:
    before = digests(CRUN, rig.tree / "bin" / "busybox")
    rig.driver.create(rig.plan(ONE, "/bin/exe-writer", "1"))
    rig.driver.start(ONE)
    for _ in range(3):
        assert rig.driver.check(ONE, ("/bin/sleep", "0.5"), 20_000).ok
    assert rig.driver.check(ONE, ("/bin/busybox", "touch", "/tmp/enough"), 20_000).ok
    end = time.monotonic() + 60
    while (found := rig.driver.observe(ONE)).exit_code is None or found.conmon_alive:
        assert time.monotonic() < end
        time.sleep(0.02)
    said = [line.text for line in rig.driver.read_logs(ONE, "", 10).lines]
    assert said[0] == "looks"
    assert said[1].startswith("saw ")
    assert not said[1].startswith("saw 0"), "nobody came by: this shows nothing"
    assert said[1].endswith("wrote 0")
    assert digests(CRUN, rig.tree / "bin" / "busybox") == before


@pytest.mark.root
def test_control_a_program_on_a_writable_file_system_is_overwritten(rig: ContainerRig, writer: None) -> None:
    script = (
        "/bin/busybox cp /bin/busybox /tmp/busybox; /bin/exe-writer 1 & "
        "/tmp/busybox sleep 1; wait; head -c 11 /tmp/busybox; echo"
    )
    plan = rig.plan(ONE, "/bin/sh", "-c", script, policy=sample_policy(tmp_exec=True))
    lines = rig.run_to_end(plan)
    assert lines[-1] == "overwritten", lines


# CVE-2025-31133, -52565, -52881: what masks and devices are bound to is swapped for a link by the container's own files


LOOKS = "cat /proc/kallsyms | wc -c; ls -l /dev/null; echo harm > /dev/null && echo null works; echo end"


@pytest.fixture
def victim(rig: ContainerRig) -> Path:
    """A file of the tree that its own /dev/null leads to. (The importer leaves out all that stands below /dev.)"""
    found = rig.tree / "etc" / "victim"
    found.write_text("whole\n")
    found.chmod(0o666)
    for name, target in {"null": "/etc/victim", "console": "/proc/sysrq-trigger", "pts": "/proc/sys"}.items():
        (rig.tree / "dev" / name).symlink_to(target)
    return found


@pytest.mark.root
def test_links_where_devices_belong_mislead_nobody(rig: ContainerRig, victim: Path) -> None:
    plan = rig.plan(ONE, "/bin/sh", "-c", LOOKS)
    lines = rig.run_to_end(plan)
    assert lines[0] == "0"
    assert lines[1].startswith("c")  # a device
    assert lines[-2:] == ["null works", "end"]
    assert victim.read_text() == "whole\n"
    # those races need a second container that writes to the same files meanwhile: there is nothing to share
    for one in json.loads(plan.config)["mounts"]:
        assert one["type"] in {"proc", "tmpfs"} or "ro" in one["options"]


@pytest.mark.root
def test_control_without_our_dev_and_user_namespace_the_links_are_followed(rig: ContainerRig, victim: Path) -> None:
    def careless(config: dict[str, Any]) -> None:
        linux = config["linux"]
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/dev")]
        linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "user"]
        del linux["uidMappings"], linux["gidMappings"]
        config["process"]["args"] = ["/bin/sh", "-c", LOOKS]

    said = run_bare(rig, careless)
    assert "harm" in victim.read_text(), said
    assert victim.stat().st_uid == 10001  # the runtime gave the file away, taking it for a device


# CVE-2021-30465: a mount point is a link to a place on the host


@pytest.fixture
def linked_tmp(rig: ContainerRig) -> Path:
    """A folder of the host that /tmp of the tree leads to."""
    victim = rig.folder / "victim"
    victim.mkdir(mode=0o755)
    (rig.tree / "tmp").rmdir()
    (rig.tree / "tmp").symlink_to(f"../../../../../..{victim}")
    return victim


def mounted_on(path: Path, mounts: str) -> bool:
    return any(line.split()[4] == str(path) for line in mounts.splitlines())


@pytest.mark.root
def test_nothing_is_mounted_through_a_link(rig: ContainerRig, linked_tmp: Path) -> None:
    plan = rig.plan(ONE, "/bin/sh", "-c", f"echo here > {linked_tmp}/file; sleep 60")
    try:
        pid = rig.driver.create(plan).pid
        rig.driver.start(ONE)
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        conmon = (rig.folders.bundle(ONE) / "conmon.pid").read_text().strip()
        around = Path(f"/proc/{conmon}/mountinfo").read_text()
    except Failed:
        mounts = around = ""  # refused is as good
    finally:
        rig.driver.delete(ONE)
    assert not mounted_on(linked_tmp, around)
    assert not mounted_on(linked_tmp, Path("/proc/self/mountinfo").read_text())
    assert not list(linked_tmp.iterdir())
    assert "idmapped" in mounts or not mounts


@pytest.mark.root
def test_control_a_careless_mount_follows_the_link(rig: ContainerRig, linked_tmp: Path) -> None:
    script = 'mount -t tmpfs none "$1/tmp" && cat /proc/self/mountinfo'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(rig.tree)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert mounted_on(linked_tmp, done.stdout)


# paths in archives: names that climb, and files written through links that stand before them


def member(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname = len(data), 0o755, kind, link
    return info, data


def archives(target: Path) -> dict[str, list[tuple[tarfile.TarInfo, bytes]]]:
    """Ways to write `target`, which lies beside the folder that is unpacked into."""
    return {
        "climbing": [member(f"../{target.name}", b"x")],
        "absolute": [member(str(target), b"x")],
        "through a link": [
            member("out", kind=tarfile.SYMTYPE, link=str(target.parent)),
            member(f"out/{target.name}", b"x"),
        ],
        "through two links": [
            member("up", kind=tarfile.SYMTYPE, link=".."),
            member("out", kind=tarfile.SYMTYPE, link="up"),
            member(f"out/{target.name}", b"x"),
        ],
    }


@pytest.mark.parametrize("way", ["climbing", "absolute", "through a link", "through two links"])
def test_an_archive_writes_nowhere_else_and_would_elsewhere(tmp_path: Path, way: str) -> None:
    target = tmp_path / "outside"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in archives(target)[way]:
            archive.addfile(info, io.BytesIO(data) if data else None)
    path = tmp_path / "image.tar"
    path.write_bytes(out.getvalue())
    source = ImageSource(kind=SourceKind.TAR, location=str(path))
    with pytest.raises(BadInput):
        import_image(source, cache=ImageCache(tmp_path / "cache"), limits=ImportLimits())
    assert not target.exists()
    # the control: a program that believes names
    careless = tmp_path / "careless"
    careless.mkdir()
    subprocess.run(["tar", "-P", "-xf", str(path)], cwd=careless, timeout=30, check=False, capture_output=True)
    assert target.exists()


# CVE-2022-0492: a program of the host's choosing, run by the kernel when a control group empties

MOUNTS_CGROUPS = """
mount -t cgroup -o {controller} none /tmp/c
/bin/busybox unshare -Ur /bin/busybox mount -t cgroup -o {controller} none /tmp/c
ls /tmp/c | wc -l
[ -e /tmp/c/release_agent ] && ( : >> /tmp/c/release_agent ) && echo agent is writable
echo end
"""


def a_controller() -> str:
    """A hierarchy of version 1 that is mounted here, "" where there is none."""
    return next(
        (name for name in ("pids", "memory", "cpu") if Path(f"/sys/fs/cgroup/{name}/release_agent").exists()), ""
    )


@pytest.mark.root
def test_no_release_agent_is_reached(rig: ContainerRig) -> None:
    script = "/bin/busybox mkdir /tmp/c\n" + MOUNTS_CGROUPS.format(controller=a_controller() or "pids")
    lines = rig.run_to_end(rig.plan(ONE, "/bin/sh", "-c", script))
    assert lines[-1] == "end", lines
    assert "0" in lines, lines  # nothing is mounted there
    assert "agent is writable" not in lines


@pytest.mark.root
def test_control_with_privileges_the_release_agent_is_reached(rig: ContainerRig) -> None:
    if not a_controller():
        pytest.skip("this machine has control groups of version 2 only, which know no release agent")

    def open_up(config: dict[str, Any]) -> None:
        linux, process = config["linux"], config["process"]
        for name in ("seccomp", "uidMappings", "gidMappings"):
            del linux[name]
        linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in {"user", "cgroup"}]
        process["user"] = {"uid": 0, "gid": 0}
        process["capabilities"] = {name: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for name in process["capabilities"]}

    script = "/bin/busybox mkdir /tmp/c\n" + MOUNTS_CGROUPS.format(controller=a_controller())
    lines = rig.run_to_end(changed(rig.plan(ONE, "/bin/sh", "-c", script), open_up))
    assert "agent is writable" in lines, lines
