"""A service with data in a real cloud: what is written is there or gone exactly as it was asked for."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from pathlib import Path

import pytest

from nebh.host.run import Command, run, start
from nebh.model.errors import NotFound
from nebh.testing.row_service import HOST, Rows, write_rows

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]
ANY = tuple(range(256))


@pytest.fixture(scope="module")
def deploy(cloud, disk_folder):
    def act(version: str, *, accept: tuple[int, ...] = (0,), **wish):
        try:
            spec = write_rows(disk_folder, Rows(version=version, **wish))
        except NotFound as error:
            pytest.skip(str(error))
        done = cloud.nebh("deploy", "--yes-widen", "--json", str(spec), accept=accept)
        return json.loads(done.stdout)

    return act


def add(cloud) -> int:
    status, body = cloud.get("/row", host=HOST, method="POST")
    assert status == 200
    return int(body.split()[0])


def table(cloud) -> list[str]:
    status, body = cloud.get("/rows", host=HOST)
    assert status == 200
    return body.splitlines()


def answers(cloud) -> list[str]:
    return cloud.get("/", host=HOST)[1].split()


def outcome(done) -> str:
    return next(iter(done["receipts"]))["outcome"]


def test_rows_outlive_an_update_a_migration_and_a_power_cut(cloud, deploy, eventually):
    deploy("v1")
    assert [add(cloud) for _ in range(3)] == [1, 2, 3]
    deploy("v2", reads=(1, 2), writes=2, convert=("2",))
    assert answers(cloud) == ["v2", "v2", "2", "2", "4"]
    assert table(cloud) == ["1 1", "2 1", "3 1", "4 convert"]
    add(cloud)
    cloud.power_cut()
    cloud.up()
    eventually(lambda: answers(cloud)[-1] == "5")


def test_a_broken_migration_leaves_the_old_release_on_the_old_data(cloud, deploy):
    before = table(cloud)
    done = deploy("v3", reads=(2, 3), writes=3, convert=("3", "7"), accept=ANY)
    assert outcome(done) == "rolled-back"
    assert "exited with code 7" in json.dumps(done)
    assert (table(cloud), answers(cloud)[:4]) == (before, ["v2", "v2", "2", "2"])


def test_an_operator_goes_back_with_the_data_and_takes_that_back(cloud, deploy):
    before = table(cloud)
    deploy("v4", reads=(2, 4), writes=4, convert=("4",))
    add(cloud)
    with_v4 = table(cloud)
    refused = cloud.nebh("rollback", "rows", "--json", accept=ANY)
    assert refused.status != 0
    assert "the data has version 4" in refused.stdout.decode() + refused.stderr.decode()
    done = json.loads(cloud.nebh("rollback", "rows", "--data", "restore", "--yes", "--json", accept=ANY).stdout)
    assert outcome(done) == "committed", json.dumps(done)
    assert (table(cloud), answers(cloud)[:4]) == (before, ["v2", "v2", "2", "2"])
    cloud.nebh("volume", "undo", "rows", "--yes")
    assert (table(cloud), answers(cloud)[:4]) == (with_v4, ["v4", "v4", "4", "4"])
    listed = json.loads(cloud.nebh("volume", "list", "rows", "--json").stdout)["volumes"]
    assert [(one["name"], one["version"], one["counter"]) for one in listed] == [("data", 4, 4)]


def test_a_broken_release_goes_back_as_its_policy_says(cloud, deploy):
    before = table(cloud)
    done = deploy("v5", reads=(4,), writes=4, broken=True, accept=ANY)
    assert outcome(done) == "rolled-back"
    assert (table(cloud)[: len(before)], answers(cloud)[:2]) == (before, ["v4", "v4"])
    done = deploy("v6", reads=(4, 5), writes=5, broken=True, convert=("5",), on_failure="restore", accept=ANY)
    assert outcome(done) == "rolled-back"
    assert (table(cloud), answers(cloud)[:4]) == (before, ["v4", "v4", "4", "4"])


def rehearse(cloud, *words: str, accept: tuple[int, ...] = (0,)):
    done = cloud.nebh("rehearse", "rows", "--json", *words, accept=accept)
    (node,) = json.loads(done.stdout)["nodes"]
    return done.status, node


def leftovers(cloud) -> list[str]:
    """Return what there is besides the one instance: links, containers, and copies as the executor sees them."""
    shown = run(Command(argv=cloud.inside("ip", "-o", "link", "show", "type", "veth"))).text.splitlines()
    bundles = sorted(path.name for path in cloud.layout.bundles.iterdir())
    volumes: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):  # the pool is mounted where only the executor sees it
        words = read(path)
        if b"nebh.programs.executor" in words and str(cloud.layout.state).encode() in words:
            seen = path.parent / "root" / str(cloud.layout.volumes).lstrip("/")
            volumes |= {one.name for one in seen.glob("**/*.*.*") if one.parent.name == "volumes"}
    assert "rows.data.0" in volumes, "the control: volumes are seen here"
    return [*shown[1:], *bundles[1:], *(name for name in volumes if name.startswith("rehearse."))]


def read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def ask_until(cloud, ended: threading.Event, found: list[int]) -> None:
    while not ended.wait(0.1):
        found.append(cloud.get("/", host=HOST)[0])


def test_a_rehearsal_tells_of_the_way_back_and_leaves_all_as_it_is(cloud, disk_folder):
    before, who = table(cloud), answers(cloud)
    ended, found = threading.Event(), []
    asking = threading.Thread(target=lambda: ask_until(cloud, ended, found), daemon=True)
    asking.start()
    status, node = rehearse(cloud)
    assert (status, node["outcome"]) == (0, "rehearsed"), json.dumps(node)
    assert "the data of snapshot" in node["detail"], "release 2 cannot read what release 4 wrote"
    assert list(node["steps"]) == ["prepare", "copy", "start", "readiness", "up"]
    broken = write_rows(disk_folder, Rows(version="v7", reads=(4, 7), writes=7, convert=("7", "7")))
    done = cloud.nebh("deploy", "--yes-widen", "--prepare", "--json", str(broken))
    counter = json.loads(done.stdout)["release"]
    status, node = rehearse(cloud, "--to", str(counter), accept=ANY)
    assert (status, node["outcome"]) == (8, "failed")
    assert "exited with code 7" in node["detail"]
    assert list(node["steps"])[-1] == "hook convert"
    told = cloud.nebh("events", "--service", "rows", "--json").stdout.decode()
    assert "rehearsal.passed" in told
    assert "rehearsal.failed" in told
    cloud.nebh("abort", "rows")
    ended.set()
    asking.join(30)
    assert len(found) > 5
    assert set(found) == {200}, "who serves is not disturbed"
    assert (table(cloud), answers(cloud)) == (before, who)
    assert leftovers(cloud) == []


def test_ctrl_c_ends_a_rehearsal_on_the_node_too(cloud, disk_folder, eventually):
    slow = write_rows(
        disk_folder, Rows(version="v8", reads=(4, 8), writes=8, convert=("8", "0", "60"), hook_timeout="90s")
    )
    counter = json.loads(cloud.nebh("deploy", "--prepare", "--json", str(slow)).stdout)["release"]
    process = start(cloud.command("rehearse", "rows", "--to", str(counter)), stdin=None, stdout=-1, stderr=-1)
    eventually(lambda: any("convert" in one for one in programs(cloud)), what="its migration runs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said.decode()
    assert not any("convert" in one for one in programs(cloud)), said.decode()
    cloud.nebh("abort", "rows")
    eventually(lambda: leftovers(cloud) == [], what="nothing is left")


def programs(cloud) -> list[str]:
    """Return the command lines of what runs in the containers of this cloud."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"/{cloud.name}/" in (path.parent / "cgroup").read_text():
                found.append(path.read_bytes().replace(b"\0", b" ").decode())
    return found
