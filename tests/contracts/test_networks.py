"""What every network driver promises, asked of the real one and of the fake."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time

import pytest

from nebh.drivers.networks.base import NetworkDriver
from nebh.drivers.networks.fake import FakeNetwork
from nebh.drivers.networks.routed import RoutedNetwork
from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.host.networker import fork_networker
from nebh.model.errors import BadInput, Broken
from nebh.model.network import InstanceNet, NetworkRules, addresses, link_plan
from nebh.model.service import Egress

SUBNETS = ("10.79.0.0/20", "fd00:79::/64")


class FakeCase:
    def __init__(self, stack):
        self.driver = FakeNetwork()


class RealCase:
    def __init__(self, stack):
        if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("nft")):
            pytest.skip("needs root, ip and nft")
        self.stack = stack
        self.namespace = "nt-" + secrets.token_hex(3)
        self.run("ip", "netns", "add", self.namespace, inside=False)
        stack.callback(subprocess.run, ["ip", "netns", "del", self.namespace], check=False)
        self.run("ip", "link", "set", "lo", "up")
        self.driver = self.another()

    def another(self):
        worker = fork_networker(setup=self.enter)
        self.stack.callback(worker.close)
        return RoutedNetwork(worker)

    def enter(self):
        descriptor = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        setns(descriptor, CLONE_NEWNET)
        os.close(descriptor)

    def run(self, *argv, inside=True):
        prefix = ("ip", "netns", "exec", self.namespace) if inside else ()
        return subprocess.run([*prefix, *argv], check=True, text=True, capture_output=True, timeout=20).stdout


@pytest.fixture(params=[FakeCase, pytest.param(RealCase, marks=pytest.mark.root)])
def case(request):
    with contextlib.ExitStack() as stack:
        yield request.param(stack)


@pytest.fixture
def real():
    with contextlib.ExitStack() as stack:
        yield RealCase(stack)


def one(index=2048, *, serving=True, endpoint=16):
    return InstanceNet(
        link=link_plan(SUBNETS, index), service="web", endpoint=addresses(SUBNETS, endpoint), serving=serving
    )


def test_links_come_and_go(case):
    driver: NetworkDriver = case.driver
    with pytest.raises(Broken):
        driver.attach(link_plan(SUBNETS, 2048))
    driver.ensure(SUBNETS)
    driver.ensure(SUBNETS)
    assert driver.links() == ()
    paths = {driver.attach(link_plan(SUBNETS, index)) for index in (2048, 2049, 4094)}
    assert len(paths) == 3
    assert driver.links() == ("nebh0800", "nebh0801", "nebh0ffe")
    driver.attach(link_plan(SUBNETS, 2048))  # over a leftover
    driver.hand_over("nebh0999")
    for _ in range(2):
        driver.detach("nebh0801")
    assert driver.links() == ("nebh0800", "nebh0ffe")
    driver.detach("nebh0800")
    driver.detach("nebh0ffe")
    assert driver.links() == ()


def test_rules_are_replaced_and_bad_ones_refused(case):
    case.driver.ensure(SUBNETS)
    for verb in (case.driver.apply, case.driver.swap):
        verb(NetworkRules(subnets=SUBNETS, instances=(one(),), egress={"web": (Egress(cidr="0.0.0.0/0"),)}))
        verb(NetworkRules(subnets=SUBNETS, instances=(one(), one(2049, serving=False))))
        verb(NetworkRules(subnets=SUBNETS))
        with pytest.raises(BadInput):
            verb(NetworkRules(subnets=SUBNETS, egress={"web": (Egress(cidr="everywhere"),)}))
        with pytest.raises(Broken):
            verb(NetworkRules(subnets=SUBNETS, instances=(one(), one(2049))))
    for _ in range(2):
        case.driver.remove()


@pytest.mark.root
def test_remove_leaves_nothing(real):
    before = real.run("ip", "-o", "addr"), real.run("ip", "route"), real.run("ip", "-6", "route")
    real.driver.ensure(SUBNETS)
    real.driver.apply(NetworkRules(subnets=SUBNETS, instances=(one(),)))
    real.driver.remove()
    assert (real.run("ip", "-o", "addr"), real.run("ip", "route"), real.run("ip", "-6", "route")) == before
    assert real.run("nft", "list", "ruleset") == ""


@pytest.mark.root
def test_a_namespace_is_ready_when_it_is_returned(real):
    real.driver.ensure(SUBNETS)
    path = real.driver.attach(link_plan(SUBNETS, 2048))
    script = "ip -o addr; ip route; ip -6 route; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
    text = real.run("nsenter", f"--net={path}", "sh", "-c", script)
    assert "10.79.8.0/32" in text
    assert "fd00:79::800/128" in text
    assert "tentative" not in text
    assert "fe80" not in text
    assert "default via 10.79.0.3 dev eth0" in text
    assert "default via fd00:79::3 dev eth0" in text
    assert text.endswith("\n0\n")


@pytest.mark.root
def test_a_change_behind_our_back_is_put_right(real):
    real.driver.ensure(SUBNETS)
    real.driver.apply(NetworkRules(subnets=SUBNETS, instances=(one(),)))
    real.run("nft", "delete", "table", "inet", "nebh")
    real.driver.swap(NetworkRules(subnets=SUBNETS, instances=(one(2049),)))
    assert "10.79.8.1" in real.run("nft", "list", "map", "inet", "nebh", "endpoints4")


@pytest.mark.root
@pytest.mark.parametrize("harm", ["flush ruleset", "flush table inet nebh", "delete table inet nebh"])
def test_repair_puts_back_what_was_flushed(real, harm):
    real.driver.ensure(SUBNETS)
    real.driver.apply(NetworkRules(subnets=SUBNETS, instances=(one(),)))
    before = real.run("nft", "list", "ruleset")
    assert not real.driver.repair()
    real.run("nft", *harm.split())
    real.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
    assert real.driver.repair()
    assert real.run("nft", "list", "ruleset") == before
    assert real.run("sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding") == "1\n1\n"


@pytest.mark.root
def test_a_fresh_driver_keeps_the_rules_that_stand(real):
    real.driver.ensure(SUBNETS)
    real.driver.apply(NetworkRules(subnets=SUBNETS, instances=(one(),)))
    real.another().ensure(SUBNETS)
    assert "10.79.8.0" in real.run("nft", "list", "map", "inet", "nebh", "endpoints4")


@pytest.mark.root
def test_an_attach_that_fails_leaves_nothing_and_comes_home(real):
    real.driver.ensure(SUBNETS)
    real.run("ip", "link", "add", "nebh0801", "type", "veth", "peer", "name", "other")
    real.run("ip", "route", "add", "unreachable", "10.79.8.5", "metric", "0")
    worker = real.driver._worker
    with pytest.raises(Exception, match="cannot"):
        worker.call("attach", {"name": "nebh0805", "own": ["10.79.8.5", "x"], "gateway": ["10.79.0.3", "fd00:79::3"]})
    with pytest.raises(Exception, match="cannot"):
        worker.call(
            "attach",
            {"name": "nebh0805", "own": ["10.79.8.5", "fd00:79::805"], "gateway": ["10.79.0.99", "fd00:79::3"]},
        )
    assert real.driver.links() == ("nebh0801",)
    real.driver.attach(link_plan(SUBNETS, 2049))


@pytest.mark.root
def test_kill_9_of_the_parent_leaves_only_what_links_shows(real):
    real.driver.ensure(SUBNETS)
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            driver = RoutedNetwork(fork_networker(setup=real.enter))
            driver.ensure(SUBNETS)
            handed = driver.attach(link_plan(SUBNETS, 2048))
            driver.attach(link_plan(SUBNETS, 2049))  # nobody moved in yet
            argv = ["nsenter", f"--net={handed}", "sh", "-c", "echo in; exec sleep 60"]
            sleeper = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE)
            sleeper.stdout.readline()
            driver.hand_over("nebh0800")
            os.write(writing, f"{driver._worker.pid} {sleeper.pid}".encode())
            time.sleep(60)
        finally:
            os._exit(1)
    networker, sleeper = map(int, os.read(reading, 100).split())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    until = time.monotonic() + 10
    while time.monotonic() < until and (_alive(networker) or "nebh0801" in real.driver.links()):
        time.sleep(0.02)
    assert not _alive(networker)
    assert real.driver.links() == ("nebh0800",)  # the "container" lives on, on the network
    assert _alive(sleeper)
    real.driver.detach("nebh0800")
    assert real.driver.links() == ()
    os.kill(sleeper, signal.SIGKILL)


@pytest.mark.root
def test_kill_9_in_the_middle_of_attach(real):
    real.driver.ensure(SUBNETS)
    link = link_plan(SUBNETS, 2050)
    for number in range(15):
        worker = fork_networker(setup=real.enter)
        driver = RoutedNetwork(worker)
        driver._subnets = SUBNETS
        killer = threading.Timer(number / 1000, os.kill, (worker.pid, signal.SIGKILL))
        killer.start()
        with contextlib.suppress(Broken):
            driver.attach(link)
        killer.join()
        worker.close()
        time.sleep(0.01)  # a last `ip` may be at it still
        assert set(real.driver.links()) <= {link.name}
    real.driver.attach(link)
    assert real.driver.links() == (link.name,)
    real.driver.detach(link.name)
    assert real.driver.links() == ()


def _alive(pid):
    from nebh.host.processes import identify

    return identify(pid) is not None
