"""`nebh up`, `nebh doctor`, `nebh down` on this machine: confined programs, a founding cut short, nothing left."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.testing.cloud import Cloud
from nebh.testing.tiny_service import write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(300)]
STEPS = ("key.before", "pending.before", "pending.after", "publish.after", "cluster.after", "enrol.after")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud(Path("/var/tmp") / f"nt-{secrets.token_hex(3)}") as made:
        yield made


def places(cloud: Cloud) -> tuple[str, ...]:
    return ("--state", str(cloud.layout.state), "--run", str(cloud.layout.run))


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def writable_mounts(pid: int) -> set[str]:
    """Mount points that are not read-only, those apart that hold nothing of anybody."""
    lines = (line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines())
    return {point for _, point, kind, options, *_ in lines if "rw" in options.split(",") and kind != "nsfs"}


def tries(pid: int, uid: str, program: str) -> str:
    """Run Python in the mount namespace of a process as its user, and return what it printed."""
    argv = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
    done = subprocess.run(
        [*argv, sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr


def test_agent_and_controller_are_confined_and_doctor_is_content_and_down_leaves_nothing(cloud):
    cloud.up()
    for name in ("agent", "controller"):
        pid = cloud.pid_of(name)
        status = status_of(pid)
        assert status["Uid"].split()[0] != "0"
        assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")
        own = {str(cloud.layout.state / name), str(cloud.layout.run / name)}
        assert writable_mounts(pid) == {*own, "/tmp", "/var/tmp"}
        tree = Path(__file__).parents[2] / "src" / "nebh" / "__init__.py"
        code = f"open({str(tree)!r}, 'a')"
        assert "Error" in tries(pid, status["Uid"].split()[0], code)
        assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    assert status_of(cloud.pid_of("executor"))["Seccomp"] == "0", "containers would inherit it"

    cloud.nebh("deploy", str(write_service(cloud.folder)))
    checks = cloud.nebh_json("doctor", *places(cloud))
    assert checks["ok"], checks
    said = " ".join(one["sentence"] for one in checks["checks"])
    assert "a forged assignment was refused" in said
    assert "a well-signed request was carried out" in said

    cloud.nebh("down", *places(cloud))
    assert cloud.layout.state.exists()
    assert leftovers(cloud) == []
    cloud.nebh("down", "--purge", *places(cloud))
    assert not cloud.layout.state.exists()
    assert not cloud.layout.run.exists()
    cloud.nebh("down", "--purge", *places(cloud))
    assert (cloud.folder / "config" / "test" / "operator.key").exists()


def leftovers(cloud: Cloud) -> list[str]:
    """Processes, control groups, links, routes, rules and mounts of a cloud."""
    found = [f"process {pid}" for pid in cloud._everything()]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{cloud.name}")]
    for argv in (("ip", "-br", "link"), ("ip", "route"), ("ip", "-6", "route"), ("nft", "list", "ruleset")):
        text = subprocess.run(cloud.inside(*argv), capture_output=True, text=True, timeout=20, check=True).stdout
        found += [line for line in text.splitlines() if "nebh" in line or "unreachable 10." in line]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(cloud.folder) in line]
    return found


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.long
def test_a_founding_killed_anywhere_is_finished_by_the_next_up(cloud, step):
    cloud.up(env={"NEBH_FAULT": f"founding.{step}"}, wait=False)
    assert cloud._up is not None
    assert cloud._up.wait(60) == -9
    cloud._up = None
    cloud.up()
    folder = cloud.folder / "config" / "test"
    assert not (folder / "founding.json").exists()
    assert json.loads((folder / "cluster.json").read_text())["cluster_id"] == cloud.node_status()["cluster_id"]


def test_says_everything_that_is_missing_before_anything_is_made(cloud):
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {cloud.http_port})); print(1, flush=True); time.sleep(60)"
    argv = cloud.inside(sys.executable, "-c", code)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        words = ("--http-port", str(cloud.http_port), "--https-port", "8443", "--words-file", str(cloud.folder / "w"))
        done = cloud.nebh("up", "--foreground", *places(cloud), *words, accept=(2,))
        holder.kill()
    text = done.stderr.decode()
    assert f"port {cloud.http_port} is taken by python" in text
    assert "--http-port" in text
    assert not cloud.layout.state.exists()


def test_refuses_state_in_memory(cloud):
    if Path("/dev/shm").stat().st_dev == Path("/").stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    state = Path("/dev/shm") / cloud.name
    words = ("--run", str(cloud.layout.run), "--words-file", str(cloud.folder / "words"))
    done = cloud.nebh("up", "--foreground", "--state", str(state), *words, accept=(2,))
    assert "is in memory" in done.stderr.decode()
    assert not state.exists()


def test_without_a_reader_of_the_words_nothing_is_made(cloud):
    done = cloud.nebh("up", "--foreground", *places(cloud), accept=(2,))
    assert "nobody is here to write the recovery words down" in done.stderr.decode()
    assert "--words-file" in done.stderr.decode()
    assert not cloud.layout.state.exists()
