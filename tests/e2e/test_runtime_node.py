"""A node by itself: after a power cut, with controller and agent gone, and what a neighbour's update does to connections."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from nebh.host.run import Command, run
from nebh.testing.container_rig import make_tree

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

NEEDS = (
    'connects: ["db:5432"]\nneeds: [db]\n'
    "health: {readiness: {http: {path: /ready, contains: ok}, interval: 200ms, timeout: 5s}}\n"
)


def database(services, version, *, bake="1s"):
    services.image("db", version=version)
    spec = services.folder / "db.yaml"
    spec.write_text(
        "name: db\nimage: {dir: ./images/db}\nargv: [/usr/bin/db, --port, '5432']\nports: {pg: 5432}\n"
        f"limits: {{memory: 64M}}\nupdate: {{bake: {bake}, drain: 1s}}\n"
    )
    return spec


@pytest.fixture(scope="module")
def shop(cloud, services):
    """A web service (two releases of it) that needs a database."""
    cloud.nebh("deploy", str(database(services, "v1")))
    for version in ("v1", "v2"):
        spec = services.web("web", version=version, more=NEEDS)
        text = spec.read_text().replace("--port, '8080'", "--port, '8080', --database, 'db.nebh.internal:5432'")
        spec.write_text(text)
        cloud.nebh("deploy", str(spec))
    return "web.example"


def test_an_open_connection_outlives_the_cut_over_of_its_other_end(cloud, shop, services, eventually):
    assert cloud.get("/held", host=shop) == (200, "v1\n")
    spec = database(services, "v2", bake="20s")
    argv = cloud.inside(sys.executable, "-P", "-m", "nebh.programs.nebh", "deploy", str(spec))
    deploying = subprocess.Popen(argv, env={**os.environ, **cloud.env}, stdout=subprocess.PIPE)
    eventually(lambda: cloud.get("/database", host=shop)[1] == "connected v2\n", patience=200)
    assert cloud.get("/held", host=shop) == (200, "v1\n")
    assert deploying.wait(300) == 0
    eventually(lambda: cloud.get("/held", host=shop)[1].startswith("ended"), what="the old one to end")
    assert cloud.get("/database", host=shop)[1] == "connected v2\n"


def test_after_a_power_cut_what_is_needed_starts_first(cloud, shop, eventually):
    cloud.power_cut()
    cloud.up()
    eventually(lambda: cloud.get("/database", host=shop) == (200, "connected v2\n"), patience=200)
    (db,), (web,) = cloud.serving("db"), cloud.serving("web")
    assert db["started"] < web["started"]  # clock ticks since boot
    eventually(
        lambda: [one["service"] for one in events_of(cloud, "instance.ready")][-2:] == ["db", "web"],
        what="the controller hears of both, in this order",
    )


def events_of(cloud, kind, *words):
    """Return the events of one kind that the controller has heard of; the agent brings them a moment after."""
    return [one for one in cloud.nebh_json("events", *words)["events"] if one["kind"] == kind]


def test_tools_join_an_instance(cloud, shop, disk_folder, eventually):
    tools = disk_folder / "tools"
    make_tree(tools)
    (one,) = cloud.serving("web")
    seen = cloud.nebh_executor("debug", one["id"], "--tools", str(tools), "--", "/bin/busybox", "ps").text
    assert "/usr/bin/web" in seen
    assert "nebh.programs" not in seen
    seen = cloud.nebh_executor("debug", one["id"], "--tools", str(tools), "--", "/bin/busybox", "ls", "/target").text
    assert "usr" in seen.split()
    eventually(lambda: events_of(cloud, "debug.entered", "--service", "web"), what="the controller hears of it")


def test_root_goes_back_with_controller_and_agent_gone(cloud, shop, eventually):
    assert '"version": "v2"' in cloud.get("/", host=shop)[1]
    supervisor = parent(cloud)
    os.kill(supervisor, signal.SIGSTOP)
    try:
        pid = cloud.pid_of("executor")
        for program in ("agent", "controller"):
            cloud.kill(program)
        status = cloud.nebh_executor("status").text
        assert "web: release 2" in status
        assert "release 1" in cloud.nebh_executor("rollback", "web").text
        eventually(lambda: '"version": "v1"' in cloud.get("/", host=shop)[1], patience=120)
        eventually(lambda: "web: release 1" in cloud.nebh_executor("status").text, patience=120)
        assert not cloud.node_status()["transactions"]
        assert cloud.pid_of("executor") == pid
        restarts = {one["id"]: one["restarts"] for one in cloud.node_status()["instances"]}
        assert set(restarts.values()) <= {0, 1}  # an absent agent ends nothing
    finally:
        os.kill(supervisor, signal.SIGCONT)
    cloud.wait_until_ready()
    anything = tuple(range(256))
    told = lambda: cloud.nebh_json("status", "web", accept=anything)  # noqa: E731
    eventually(lambda: '"counter": 1' in json.dumps(told()), patience=120, what="the controller hears of it")


def parent(cloud):
    """Return the pid of the supervisor of the three programs."""
    with open(f"/proc/{cloud.pid_of('executor')}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def test_commands_on_the_node_say_what_is_wrong(cloud, shop):
    for words, said in (
        (("rollback", "nobody"), b"no service nobody"),
        (("debug", "web-9-9-9", "--tools", "/"), b"no instance"),
    ):
        done = cloud.nebh_executor(*words, accept=tuple(range(1, 20)))
        assert said in done.stderr
        assert b"Traceback" not in done.stderr
    other = run(
        Command(
            argv=cloud.inside(sys.executable, "-P", "-m", "nebh.programs.executor", "--run", "/nowhere", "status"),
            env=cloud.env,
            accept=tuple(range(1, 20)),
        )
    )
    assert b"Traceback" not in other.stderr
