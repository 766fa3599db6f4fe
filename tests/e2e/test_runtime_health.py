"""What instances do to themselves: ends, memory, failing checks, floods of output; and that neighbours do not notice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from nebh.host.run import Command, run

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

LOG_LIMIT = 1 << 20


@pytest.fixture(scope="module")
def web(services):
    """A service that is restarted when it says that it is dead."""
    health = (
        "health:\n  readiness: {http: {path: /ready}, interval: 200ms, timeout: 5s}\n"
        "  liveness: {http: {path: /alive}, interval: 1s, timeout: 5s, failures: 2}\n"
    )
    services.deploy("web", more=health)
    return "web.example"


def events_of(cloud, kind, service):
    found = cloud.nebh_json("events", "--service", service)
    return [one for one in found["events"] if one["kind"] == kind]


def the_pid(cloud, service):
    return cloud.serving(service)[0]["pid"]


def test_a_killed_instance_is_restarted_and_the_reason_is_known(cloud, web, eventually):
    (before,) = cloud.serving("web")
    for times in (1, 2):
        pid = the_pid(cloud, "web")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: the_pid(cloud, "web") not in (0, pid), what="a new process")
        eventually(lambda: cloud.get("/", host=web)[0] == 200, what="answers")
        assert cloud.serving("web")[0]["restarts"] == times
    (after,) = cloud.serving("web")
    assert after["id"] == before["id"]
    assert "signal 9" in after["last_exit"]
    exits = eventually(lambda: (e := events_of(cloud, "instance.exited", "web")) and len(e) >= 2 and e)
    assert "signal 9" in exits[-1]["message"]
    ready = eventually(lambda: (e := events_of(cloud, "instance.ready", "web")) and len(e) >= 2 and e)
    assert ready[-1]["at"] - exits[-1]["at"] >= 1000  # the second restart in a row waits a second


def test_too_much_memory_is_said_with_what_to_do(cloud, services, eventually):
    services.deploy("hungry")
    pid = the_pid(cloud, "hungry")
    assert cloud.get("/do/oom/1", host="hungry.example", timeout=60)[0] != 200
    (event,) = eventually(lambda: events_of(cloud, "instance.oom", "hungry"), what="an event")
    assert "memory" in event["message"]
    assert "limits.memory" in event["hint"]
    eventually(lambda: the_pid(cloud, "hungry") not in (0, pid))
    eventually(lambda: cloud.get("/", host="hungry.example")[0] == 200)
    told = cloud.nebh("why", "hungry").text
    assert "more memory than its limit" in told
    assert "limits.memory" in told


def test_an_instance_that_says_it_is_dead_is_restarted(cloud, web, eventually):
    pid = the_pid(cloud, "web")
    cloud.get("/do/dead/yes", host=web)
    eventually(lambda: the_pid(cloud, "web") not in (0, pid), what="restart", patience=120)
    eventually(lambda: cloud.get("/alive", host=web)[0] == 200)
    (event,) = eventually(lambda: events_of(cloud, "instance.liveness-failed", "web"))
    assert "503" in event["message"]


def test_an_instance_that_is_not_ready_gets_no_requests_until_it_is(cloud, services, eventually):
    services.deploy("pair", more="replicas: {count: 2, min: 1, max: 2}\n")
    host = "pair.example"
    cloud.get("/do/unready/yes", host=host)

    def answering():
        return {re.search(r'"host": "([^"]*)"', cloud.get("/", host=host)[1] or '"host": ""')[1] for _ in range(6)}

    eventually(lambda: events_of(cloud, "instance.readiness-failed", "pair"), patience=120)
    left = eventually(lambda: (found := answering()) and len(found) == 1 and found)
    resting = next(one for one in cloud.serving("pair") if f"pair-{one['replica']}" not in left)
    routes = run(Command(argv=cloud.inside("ip", "-4", "route", "show", "dev", f"nebh{resting['address']:04x}"))).text
    address = re.search(r"\d+\.\d+\.\d+\.\d+", routes)[0]
    run(Command(argv=cloud.inside("curl", "-sf", "--noproxy", "*", f"http://{address}:8080/do/unready/no")))
    eventually(lambda: len(answering()) == 2, patience=120, what="both answer")
    assert {one["restarts"] for one in cloud.serving("pair")} == {0}


def test_a_flood_of_output_stays_within_its_limit_and_is_named(cloud, web, services, eventually):
    services.deploy("noisy", more=f"limits: {{memory: 64M, log: {LOG_LIMIT >> 20}M}}\n")
    (one,) = cloud.serving("noisy")
    folder = cloud.layout.logs / one["id"]
    cloud.get("/do/flood/20000000", host="noisy.example")
    sizes = []

    def named():
        files = {path.stat().st_ino: path.stat().st_size for path in folder.glob("ctr.log*") if path.exists()}
        sizes.append(sum(files.values()))
        assert cloud.get("/", host=web)[0] == 200  # the neighbour
        return events_of(cloud, "instance.log-flood", "noisy")

    (event,) = eventually(named, patience=120, what="an event that names the service")
    assert event["service"] == "noisy"
    assert "limits.log" in event["hint"]
    assert max(sizes) <= LOG_LIMIT
    assert "flood" in cloud.nebh("logs", "noisy", "--tail", "5").text


@pytest.mark.long
def test_following_logs_loses_no_line_when_files_rotate(cloud, services, eventually):
    services.deploy("chatty", more=f"limits: {{memory: 64M, log: {LOG_LIMIT >> 20}M}}\n")
    argv = cloud.inside(
        sys.executable, "-P", "-m", "nebh.programs.nebh", "logs", "chatty", "-f", "--raw", "--tail", "0"
    )
    follower = subprocess.Popen(argv, env={**os.environ, **cloud.env}, stdout=subprocess.PIPE)
    (one,) = cloud.serving("chatty")
    folder = cloud.layout.logs / one["id"]
    lines_each = -(-120_000 // 97)
    rounds = 4  # a file holds a fifth of the limit: it is begun anew twice at least
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.extend(follower.stdout))
    reader.start()
    try:
        for number in range(rounds):
            cloud.get("/do/flood/120000", host="chatty.example")
            time.sleep(6)  # files are rotated every five seconds: faster output may lose lines, and says so
            eventually(lambda n=number: len(numbers_of(said)) == (n + 1) * lines_each, what=len(said))
        assert (folder / "ctr.log.1").exists()
    finally:
        follower.kill()
        reader.join()
        follower.wait()
    assert numbers_of(said) == list(range(lines_each)) * rounds


def numbers_of(said):
    """Return the numbers of the flood's lines; one may be cut where a file ends."""
    whole = b"".join(said).replace(b"\n", b"")
    return [int(one) for one in re.findall(rb"flood (\d{9}) x{80}", whole)]
