"""A container that floods beside a neighbour that works: the neighbour loses no request and gets its share of the
processor by the kernel's own accounts, Nebh lives on and says whose flood it is. And the probe of tests/attacks once
more, inside a container that the whole of Nebh has made, with a network."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nebh.host.cgroups import find_tree
from nebh.host.run import Command, run
from nebh.model.errors import NotFound
from nebh.testing.flooder import address_of, compile_flooder, write_flooder
from nebh.testing.probe_rows import normalise, of_this_machine
from nebh.testing.static_program import compile_static

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

TESTS = Path(__file__).resolve().parents[1]
CALM, NOISY = "calm", "noisy"
ENTITLED = 0.5  # two containers of the same weight
LEAST = 0.8 * ENTITLED
ENOUGH_US = 3_000_000  # of processor time of both, until shares are looked at


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The flooder and the probe, compiled once."""
    folder = tmp_path_factory.mktemp("programs")
    try:
        return (
            compile_flooder(folder),
            compile_static(TESTS / "attacks" / "programs" / "probe.c", folder / "probe"),
        )
    except NotFound as error:
        pytest.skip(f"{error}: {error.hint}")


@pytest.fixture(scope="module")
def deploy(cloud, disk_folder, programs):
    """Return a function that deploys a service of the two programs."""

    def make(name, **words):
        cloud.nebh("deploy", "--yes-widen", str(write_flooder(disk_folder, name, programs, **words)))

    return make


@pytest.fixture(scope="module")
def pair(deploy):
    """Both services, deployed."""
    deploy(CALM)
    deploy(NOISY, memory="96M")
    return CALM, NOISY


LISTEN = """
import socket
server = socket.create_server(("::", 7777), family=socket.AF_INET6, dualstack_ipv6=True)
print("listens", flush=True)
while True:
    server.accept()[0].close()
"""
HOST4, METADATA4, METADATA6 = "203.0.113.77", "169.254.169.254", "fd00:ec2::254"


@pytest.fixture
def host_listens(cloud):
    """Somebody listens on every address of the node: one of its own, and those of a cloud's metadata."""
    lines = ["link add outside type veth peer name beyond", "link set beyond up", "link set outside up"]
    lines += [f"addr add {one} dev outside nodad" for one in (f"{HOST4}/24", f"{METADATA4}/32", f"{METADATA6}/128")]
    for line in lines:
        run(Command(argv=("ip", "-n", cloud.name, *line.split())))
    server = subprocess.Popen(cloud.inside(sys.executable, "-c", LISTEN), stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == b"listens\n"
        yield
    finally:
        server.kill()
        server.wait()
        run(Command(argv=("ip", "-n", cloud.name, "link", "del", "outside")))


def test_the_probe_finds_in_a_whole_cloud_what_it_finds_beside_it(cloud, pair, host_listens, dial):
    gateway = re.search(r"inet (10\.\S+?)/32", run(Command(argv=cloud.inside("ip", "-4", "addr"))).text)[1]
    targets = {
        "a metadata address": METADATA4,
        "a metadata address over IPv6": METADATA6,
        "an address of the node": HOST4,
        "the gateway": gateway,
    }
    for address in targets.values():
        dial(7777, address=address).close()  # the positive control: the node itself gets there
    targets = {name: f"{address}:7777" for name, address in targets.items()}
    targets |= {"a service that nobody declared": f"{address_of(cloud, CALM)}:8080"}
    inside = {"itself": "127.0.0.1:8080"}  # the positive control from the other side
    words = "+".join(f"{name}={address}" for name, address in {**targets, **inside}.items()).replace(" ", "_")
    status, text = cloud.get(f"/probe?{words}", host=f"{NOISY}.example", timeout=120)
    assert status == 200
    rows = [row for row in normalise(text.splitlines()) if row != "end"]
    reached = {row for row in rows if row.startswith("reach ")}
    assert reached == {f"reach {name.replace(' ', '_')}: not reached" for name in targets} | {"reach itself: reached"}
    assert "address eth0: " in text
    assert table(rows) == table(of_this_machine((TESTS / "golden" / "container_probe.txt").read_text()))


def table(rows):
    """Rows that are the same in both places: not the network, not the service's own limit, not the setuid program,
    which no image can hold. The server's sockets are open when it starts the probe; low ports are open in our networks."""
    apart = ("address ", "reach ", "limit processes", "identity setuid program", "descriptor ", "socket low port")
    return [row for row in rows if not row.startswith(apart)]


class Share:
    """What two containers use of the processor, added up over restarts."""

    def __init__(self, cloud):
        self.tree = find_tree(cloud.name)
        self.names = {name: cloud.serving(name)[0]["id"] for name in (CALM, NOISY)}
        self.seen = {name: self.tree.cpu_us(one) for name, one in self.names.items()}
        self.used = dict.fromkeys(self.names, 0)

    def look(self):
        """Count on; return whether both together have used enough."""
        for name, one in self.names.items():
            now, before = self.tree.cpu_us(one), self.seen[name]
            self.used[name] += now - before if now >= before else now
            self.seen[name] = now
        return sum(self.used.values()) >= ENOUGH_US

    def of_calm(self):
        return self.used[CALM] / sum(self.used.values())


@pytest.fixture(scope="module")
def busy(cloud, pair):
    """The neighbour works as hard as it can from now on."""
    assert cloud.get("/do/burn", host=f"{CALM}.example", timeout=60)[0] == 200


@pytest.fixture
def neighbour(cloud, pair, busy, load, eventually):
    """The neighbour answers requests beside its work; afterwards it has lost none and is the same."""
    eventually(lambda: cloud.get("/", host=f"{NOISY}.example")[0] == 200, patience=120, what="the flooder answers")
    (before,) = cloud.serving(CALM)
    stop = load(f"{CALM}.example", rate=10, more=("--timeout", "120", "--post-share", "0"))
    yield before
    summary = stop()
    (after,) = cloud.serving(CALM)
    assert (after["pid"], after["started"], after["restarts"]) == (before["pid"], before["started"], before["restarts"])
    assert summary["failed"] == 0, summary
    assert summary["requests"] >= 20


def flood(cloud, kind, events, eventually, *, path=""):
    """Let the noisy one flood until both have used enough processor time and Nebh has named it; judge the shares."""
    known = len(named(cloud, events))
    share = Share(cloud)
    cloud.get(f"/do/{path or kind}", host=f"{NOISY}.example", timeout=60)
    eventually(share.look, patience=300, what=f"processor time: {share.used}")
    print(f"{kind}: the neighbour got {share.of_calm():.0%} of what both used")
    event = eventually(lambda: named(cloud, events)[known:], patience=300, what=f"an event: {events}")[-1]
    assert (event["service"], event["severity"]) == (NOISY, "warning")
    assert NOISY in event["message"]
    assert event["hint"]
    assert share.of_calm() >= LEAST
    assert {one["service"] for one in cloud.node_status()["instances"]} >= {CALM, NOISY}


def named(cloud, kinds):
    """Return the events of these kinds that name the noisy one."""
    found = cloud.nebh_json("events", "--service", NOISY)["events"]
    return [one for one in found if one["kind"] in kinds]


@pytest.fixture
def noisy_ends(cloud, pair):
    """After the test the flood is over: its container is made anew."""
    yield
    for one in cloud.serving(NOISY):
        if one["pid"]:
            os.kill(one["pid"], signal.SIGKILL)


FLOODS = [
    ("fork", ("instance.process-flood",)),
    pytest.param("memory", ("instance.memory-flood", "instance.oom"), marks=pytest.mark.long),
    pytest.param("descriptors", ("instance.descriptor-flood",), marks=pytest.mark.long),
    pytest.param("tmp", ("instance.tmp-full",), marks=pytest.mark.long),
    pytest.param("files", ("instance.tmp-crowded",), marks=pytest.mark.long),
    pytest.param("log", ("instance.log-flood",), marks=pytest.mark.long),
]


@pytest.mark.parametrize(("kind", "events"), FLOODS)
def test_the_neighbour_does_not_notice_a_flood(cloud, neighbour, noisy_ends, eventually, kind, events):
    flood(cloud, kind, events, eventually)


@pytest.mark.long
def test_the_neighbour_does_not_notice_a_flood_of_connections(cloud, pair, deploy, request, eventually):
    deploy("sink")
    deploy(NOISY, memory="96M", more="connects: [sink:8080]\n")
    for name in ("noisy_ends", "neighbour"):
        request.getfixturevalue(name)
    path = f"connect/{address_of(cloud, 'sink')}"
    flood(cloud, "connect", ("instance.connection-flood",), eventually, path=path)


@pytest.mark.long
def test_control_a_flooder_of_more_weight_takes_what_is_not_its_own(cloud, busy, noisy_ends, eventually):
    eventually(lambda: cloud.get("/", host=f"{NOISY}.example")[0] == 200, patience=120, what="the flooder answers")
    share = Share(cloud)
    tree, one = share.tree, share.names[NOISY]
    path, weight = ("{}/cpu.weight", 16 * 100) if tree.v2 else ("cpu/{}/cpu.shares", 16 * 1024)
    (tree.root / path.format(f"{tree.parent}/{one}")).write_text(str(weight))
    cloud.get("/do/fork", host=f"{NOISY}.example", timeout=60)
    eventually(share.look, patience=300, what=f"processor time: {share.used}")
    assert share.of_calm() < LEAST
