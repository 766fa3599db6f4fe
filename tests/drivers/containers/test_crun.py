"""Real containers: confined as promised, limited, adopted after a kill -9, and gone without a trace."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nebh.host import membership, processes
from nebh.host.cgroups import CONTROLLERS
from nebh.model.errors import Failed
from nebh.model.instance import Status
from nebh.model.service import Limits
from nebh.testing.container_rig import UID_BASE, ContainerRig, sample_policy

pytestmark = pytest.mark.root
ONE = "web-7-0-1"


def run_to_end(rig, script, *, policy=None, seconds=20, log_bytes=1 << 20):
    """Return (what is observed at the end, the lines it printed)."""
    rig.driver.create(rig.plan(ONE, "/bin/sh", "-c", script, policy=policy, log_bytes=log_bytes))
    rig.driver.start(ONE)
    wait(lambda: rig.driver.observe(ONE).exit_code is not None, seconds=seconds)
    return rig.driver.observe(ONE), all_lines(rig)


def all_lines(rig, instance=ONE):
    return [line.text for line in rig.driver.read_logs(instance, "", 100_000).lines]


def wait(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def our_processes(folder):
    """Live processes that name the folder or run as a container's user, but for containers of other rigs."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and processes.identify(int(entry.name)):
            try:
                group = (entry / "cgroup").read_text()
                contained = entry.stat().st_uid >= UID_BASE and ("/nt-" not in group or folder.parent.name in group)
                if contained or str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found - {os.getpid()}


PROBE = """
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp):?' /proc/self/status; tr -s ' ' < /proc/self/uid_map
echo $(grep Umask /proc/self/status); echo $(ls /proc/self/fd); echo sys $(ls -A /sys | wc -l)
cat /etc/hostname /etc/resolv.conf; touch /x; touch /etc/hosts; echo true > /tmp/x && echo tmp works
chmod 700 /tmp/x; /tmp/x; chmod 0 /dev/null; echo > /dev/null && echo null works
echo oom $(cat /proc/1/oom_score_adj); echo symbols $(cat /proc/kallsyms | wc -c); mount -t tmpfs x /tmp
echo 1 > /proc/sys/vm/drop_caches
echo end
"""


def test_it_is_confined(rig):
    before = Path("/dev/null").stat()
    created = rig.driver.create(rig.plan(ONE, "/bin/sh", "-c", PROBE + "sleep 60"))
    rig.driver.start(ONE)
    wait(lambda: "end" in all_lines(rig) and any("drop_caches" in line for line in all_lines(rig)))
    outside = Path(f"/proc/{created.pid}/status").read_text()
    assert re.search(rf"Uid:\s+{UID_BASE + 10001}\b", outside)
    lines = set(all_lines(rig))
    empty = {f"Cap{name}:\t0000000000000000" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert empty | {"Uid:\t10001\t10001\t10001\t10001", "NoNewPrivs:\t1", "Seccomp:\t2", "Umask: 0077"} <= lines
    assert {f" 0 {UID_BASE} 65536", "0 1 2 3", "sys 0", "web", "nameserver 10.0.0.1", "oom 500", "symbols 0"} <= lines
    assert {"tmp works", "null works"} <= lines
    text = "\n".join(line.text for line in rig.driver.read_logs(ONE, "", 1000).lines if line.stream == "stderr")
    assert "touch: /x: Read-only file system" in text
    assert "touch: /etc/hosts: " in text
    assert "chmod: /dev/null: Read-only file system" in text
    assert re.search(r"/tmp/x: *\n?Permission denied", text)
    assert re.search(r"mount: .*(not permitted|denied)", text)
    assert re.search(r"drop_caches: *\n?Read-only file system", text)
    now = Path("/dev/null").stat()
    assert (now.st_uid, now.st_gid, now.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    check = rig.driver.check(ONE, ("/bin/sh", "-c", "grep -E 'CapBnd|NoNew|Seccomp:|Uid' /proc/self/status"), 5000)
    assert all(word in check.detail for word in ("0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t10001"))


def test_the_host_sees_no_mount(rig):
    rig.driver.create(rig.plan(ONE, "/bin/sleep", "60"))
    assert rig.folder.name not in Path("/proc/self/mountinfo").read_text()
    assert not list((rig.folders.bundle(ONE) / "rootfs").iterdir())


def test_pids_are_limited(rig):
    policy = sample_policy(limits=Limits(memory=64 << 20, pids=10))
    observed, lines = run_to_end(rig, "for i in $(seq 20); do sleep 5 & done; echo through", policy=policy)
    assert observed.exit_code != 0
    assert any("fork" in line for line in lines)


def test_memory_is_limited_and_named_as_the_reason(rig):
    policy = sample_policy(limits=Limits(memory=24 << 20, pids=10))
    observed, _ = run_to_end(rig, "exec dd if=/dev/zero of=/dev/null bs=100M count=1", policy=policy)
    assert (observed.exit_code, observed.oom) == (137, True)
    rig.driver.delete(ONE)
    # only a child died of it: that is not why the container ended (version 2 kills the whole group)
    observed, _ = run_to_end(rig, "dd if=/dev/zero of=/dev/null bs=100M count=1; exit 3", policy=policy)
    assert (observed.exit_code, observed.oom) == ((137, True) if rig.cgroups.v2 else (3, False))
    rig.driver.delete(ONE)
    observed, _ = run_to_end(rig, "exec dd if=/dev/zero of=/tmp/big bs=1M count=20; echo never", policy=policy)
    assert observed.exit_code == 1  # /tmp has a size of its own


def test_cpu_is_limited(rig):
    policy = sample_policy(limits=Limits(memory=64 << 20, cpu=100))
    rig.driver.create(rig.plan(ONE, "/bin/sh", "-c", "while true; do :; done", policy=policy))
    rig.driver.start(ONE)
    time.sleep(1.0)
    assert rig.cgroups.throttled_us(ONE) > 0
    assert rig.cgroups.cpu_us(ONE) < 400_000


def start_beside(rig, *words, create_only=False):
    """Another process creates a container in the rig's folders; returns it and its launcher's identity."""
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    if create_only:
        env["NEBH_RIG_CREATE_ONLY"] = "1"
    parent = subprocess.Popen(
        [sys.executable, "-m", "nebh.testing.container_rig", str(rig.folder), ONE, *words],
        stdout=subprocess.PIPE,
        env=env,
    )
    line = parent.stdout.readline().split()
    assert line[:1] == [b"ready"]
    return parent, processes.identify(int(line[2]))


def kill(parent, launcher):
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert processes.wait_end(launcher, seconds=3)


def test_a_killed_executor_loses_nothing(rig):
    script = "n=0; while [ $n -lt 40 ]; do echo tick $n; n=$((n+1)); sleep 0.02; done; exit 7"
    parent, launcher = start_beside(rig, "/bin/sh", "-c", script)
    before = rig.driver.observe(ONE)
    kill(parent, launcher)
    found = rig.driver.observe(ONE)
    assert (found.status, found.pid, found.conmon_alive) == (Status.RUNNING, before.pid, True)
    descriptor = rig.driver.watch(ONE)
    assert descriptor >= 0
    os.close(descriptor)
    wait(lambda: rig.driver.observe(ONE).exit_code is not None)
    assert rig.driver.observe(ONE).exit_code == 7
    assert all_lines(rig) == [f"tick {number}" for number in range(40)]


def test_a_created_container_is_started_by_the_next_executor(rig):
    parent, launcher = start_beside(rig, "/bin/sh", "-c", "echo hello; sleep 60", create_only=True)
    kill(parent, launcher)
    assert rig.driver.observe(ONE).status is Status.CREATED
    assert rig.driver.start(ONE).status is Status.RUNNING
    wait(lambda: all_lines(rig) == ["hello"])
    assert rig.driver.check(ONE, ("/bin/true",), 5000).ok


def test_a_kill_during_create_leaves_all_or_nothing(rig):
    for delay in (0.005, 0.015, 0.03, 0.05, 0.07):
        other = ContainerRig(rig.folder)
        child = os.fork()
        if child == 0:
            other.driver.create(rig.plan(ONE, "/bin/sleep", "60"))
            os._exit(0)
        time.sleep(delay)
        launcher = processes.identify(other.launcher.pid)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        processes.send_signal(launcher, signal.SIGKILL)
        other.launcher.close()
        time.sleep(0.3)
        assert rig.driver.observe(ONE).status in (Status.ABSENT, Status.CREATED)
        rig.driver.delete(ONE)
        assert rig.driver.list() == ()
        assert not our_processes(rig.folders.bundles)


def test_a_kill_before_there_is_a_bundle_leaves_nothing_to_start(rig):
    other = ContainerRig(rig.folder)
    child = os.fork()
    if child == 0:
        other.driver._write_bundle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        other.driver.create(rig.plan(ONE, "/bin/sleep", "60"))
    launcher = processes.identify(other.launcher.pid)
    os.waitpid(child, 0)
    other.launcher.close()
    assert processes.wait_end(launcher, seconds=3)
    wait(lambda: not our_processes(rig.folders.bundles))  # conmon has gone on, and found nothing
    assert rig.driver.observe(ONE).status is Status.ABSENT
    rig.driver.delete(ONE)
    assert rig.driver.list() == ()


def test_a_bundle_that_cannot_be_written_leaves_nothing(rig):
    plan = rig.plan(ONE, "/bin/true")
    with pytest.raises(FileNotFoundError):
        rig.driver.create(type(plan)(**{**vars(plan), "etc_files": {"no/folder": b""}}))
    assert rig.driver.list() == ()
    assert not our_processes(rig.folders.bundles)


def test_nothing_is_left(rig):
    rig.driver.create(rig.plan(ONE, "/bin/sh", "-c", "sleep 60 & sleep 60 & sleep 60"))
    rig.driver.start(ONE)
    assert our_processes(rig.folders.bundles)
    rig.driver.delete(ONE)
    assert not our_processes(rig.folders.bundles)
    assert rig.driver.list() == ()
    groups = [folder for folder, _, _ in os.walk("/sys/fs/cgroup")]  # Path.glob fails when others vanish meanwhile
    assert not [folder for folder in groups if rig.folder.name in folder and folder.endswith(ONE)]
    kept = {path.name for path in rig.folder.rglob("*") if ONE in str(path) and "tree" not in path.parts}
    assert kept == {ONE, "ctr.log", "ctr.log.live"}
    unified = Path("/sys/fs/cgroup/unified")
    assert rig.cgroups.v2 or not (unified / rig.folder.name).exists()


def test_a_dead_conmon_is_seen(rig):
    rig.driver.create(rig.plan(ONE, "/bin/sleep", "60"))
    rig.driver.start(ONE)
    descriptor = rig.driver.watch(ONE)
    os.close(descriptor)
    conmon = int((rig.folders.bundle(ONE) / "conmon.pid").read_text())
    os.kill(conmon, signal.SIGKILL)
    wait(lambda: not rig.driver.observe(ONE).conmon_alive)
    found = rig.driver.observe(ONE)
    assert (found.status, found.exit_code, rig.driver.watch(ONE)) == (Status.RUNNING, None, -1)
    rig.driver.delete(ONE)
    assert not our_processes(rig.folders.bundles)


def test_conmon_is_in_groups_of_its_own(rig):
    assert conmon_groups(rig) == {f"/{rig.folder.name}/conmon/{ONE}"}
    assert f"/{rig.folder.name}" not in Path(f"/proc/{rig.launcher.pid}/cgroup").read_text()


def test_conmon_is_in_them_where_only_a_move_by_pid_is_possible(short_folder, monkeypatch):
    monkeypatch.setattr(membership, "_homes", dict)  # as on version 2; the launcher inherits it
    rig = ContainerRig(short_folder)
    try:
        assert conmon_groups(rig) == {f"/{rig.folder.name}/conmon/{ONE}"}
    finally:
        rig.close()


def conmon_groups(rig):
    """Start a container; return the groups its conmon is in, of the controllers that we use."""
    rig.driver.create(rig.plan(ONE, "/bin/sleep", "60"))
    rig.driver.start(ONE)
    conmon = int((rig.folders.bundle(ONE) / "conmon.pid").read_text())
    lines = [line.split(":", 2) for line in Path(f"/proc/{conmon}/cgroup").read_text().splitlines()]
    used = [path for _, names, path in lines if set(names.split(",")) & set(CONTROLLERS)]
    return set(used or [lines[0][2]])


def test_nobody_in_a_container_could_write_to_crun(rig):
    rig.driver.create(rig.plan(ONE, "/bin/sleep", "60"))
    conmon = int((rig.folders.bundle(ONE) / "conmon.pid").read_text())
    mounts = [line.split() for line in Path(f"/proc/{conmon}/mountinfo").read_text().splitlines()]
    options = [words[5] for words in mounts if words[4] == str(Path("/usr/bin/crun").resolve())]
    assert [one.split(",")[0] for one in options] == ["ro"]
    # crun's own process, as it waits to become the container's: what a container could get hold of
    program = os.open(f"/proc/{rig.driver.observe(ONE).pid}/exe", os.O_PATH)
    try:
        assert os.fstatvfs(program).f_flag & os.ST_RDONLY
    finally:
        os.close(program)


def test_a_conmon_that_cannot_be_started_leaves_the_launcher_as_it_was(rig):
    def view():
        links = [Path(f"/proc/{rig.launcher.pid}/{name}") for name in ("ns/mnt", "cwd")]
        mounts = Path(f"/proc/{rig.launcher.pid}/mountinfo").read_text().splitlines()
        ours = [line for line in mounts if rig.folder.name in line or "crun" in line]  # others come and go
        return [str(link.readlink()) for link in links], Path(f"/proc/{rig.launcher.pid}/cgroup").read_text(), ours

    rig.driver.create(rig.plan(ONE, "/bin/true"))
    before, descriptors = view(), len(list(Path(f"/proc/{rig.launcher.pid}/fd").iterdir()))
    rig.driver._conmon = "/none/conmon"
    with pytest.raises(Failed, match="No such file"):
        rig.driver.create(rig.plan(ONE, "/bin/true"))
    assert view() == before
    assert len(list(Path(f"/proc/{rig.launcher.pid}/fd").iterdir())) == descriptors
    rig.driver._conmon = "/usr/bin/conmon"
    assert rig.driver.create(rig.plan(ONE, "/bin/true")).status is Status.CREATED


def test_without_the_fifo_it_starts_by_crun(rig):
    rig.driver._fast_start = False
    rig.driver.create(rig.plan(ONE, "/bin/sleep", "60"))
    assert rig.driver.start(ONE).status is Status.RUNNING


def test_a_tree_that_is_not_there_is_told(rig):
    plan = rig.plan(ONE, "/bin/true")
    with pytest.raises(Failed, match="No such file"):
        rig.driver.create(type(plan)(**{**vars(plan), "tree": rig.folder / "none"}))
    assert rig.driver.list() == ()


def test_rotation_of_a_live_log_loses_no_line(rig):
    # each batch, a third of what conmon may write between two looks, waits until the one before was read
    script = """
    trap go=1 USR1; n=0
    while [ $n -lt 10 ]; do
        go=; seq $((n*6000+1)) $((n*6000+6000)); n=$((n+1))
        while [ -z "$go" ]; do sleep 0.01; done
    done"""
    policy = sample_policy(limits=Limits(memory=64 << 20))
    rig.driver.create(rig.plan(ONE, "/bin/sh", "-c", script, policy=policy, log_bytes=5_000_000))
    rig.driver.start(ONE)
    files: set[str] = set()
    lines, cursor, batch = [], "", 1
    while True:
        ended = rig.driver.observe(ONE).exit_code is not None
        kept = rig.driver.rotate_logs(ONE)
        assert kept <= 5_000_000
        page = rig.driver.read_logs(ONE, cursor, 2000)
        assert not page.lost
        lines += [line.text if line.partial else line.text + "\n" for line in page.lines]
        cursor = page.cursor
        files |= {path.name for path in (rig.folders.logs / ONE).iterdir()}
        if ended and not page.lines:
            break
        if "".join(lines[-4:]).endswith(f"{batch * 6000}\n"):
            rig.driver.signal(ONE, "USR1")
            batch += 1
        time.sleep(0.005)
    assert "".join(lines).splitlines() == [str(number) for number in range(1, 60001)]
    assert {"ctr.log", "ctr.log.1"} <= files
    assert rig.driver.log_written(ONE) == 0


def test_a_flood_is_held_back_at_its_pipe(rig):
    rig.driver.create(rig.plan(ONE, "/bin/yes", "x" * 200, log_bytes=1 << 20))
    rig.driver.start(ONE)
    time.sleep(0.3)
    first, begun = rig.driver.log_written(ONE), time.monotonic()
    kept = [rig.driver.rotate_logs(ONE) for _ in range(10) if not time.sleep(0.1)]
    rate = (rig.driver.log_written(ONE) - first) / (time.monotonic() - begun)
    print(f"a flood is written at {rate / 1e6:.1f} MB/s")
    assert max(kept) <= 1.5 * (1 << 20)
    assert 10_000 < rate < 40_000_000
    conmon = int((rig.folders.bundle(ONE) / "conmon.pid").read_text())
    ticks = [sum(map(int, Path(f"/proc/{conmon}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))]
    time.sleep(1.0)
    ticks.append(sum(map(int, Path(f"/proc/{conmon}/stat").read_text().rsplit(")", 1)[1].split()[11:13])))
    assert ticks[1] - ticks[0] <= 25  # of 100 a second
