"""What every DNS driver promises, asked of the real one and of the fake."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from nebh.drivers.dns.base import DnsDriver
from nebh.drivers.dns.config import render_hosts
from nebh.drivers.dns.dnsmasq import PROGRAM, DnsmasqDns
from nebh.drivers.dns.fake import FakeDns
from nebh.drivers.networks.routed import RoutedNetwork
from nebh.host import processes
from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.host.networker import fork_networker
from nebh.model.errors import Broken, Failed
from nebh.model.network import AddressPair, DnsRecords, addresses

SUBNETS = ("10.78.0.0/20", "fd00:78::/64")
ONE = AddressPair(v4="10.78.0.16", v6="fd00:78::10")
TWO = AddressPair(v4="10.78.0.17", v6="fd00:78::11")


class FakeCase:
    def __init__(self, stack):
        self.driver = FakeDns()

    def answer(self, service):
        return self.driver.answer(service)

    def another(self):
        return self.driver


class RealCase:
    def __init__(self, stack):
        if os.geteuid() != 0 or not Path(PROGRAM).exists() or not shutil.which("ip"):
            pytest.skip("needs root, dnsmasq and ip")
        self.namespace = "nt-" + secrets.token_hex(3)
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", self.namespace], check=False)
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)
        self.folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
        self.folder.chmod(0o755)
        stack.callback(shutil.rmtree, self.folder)
        self.worker = fork_networker(setup=self.enter)
        stack.callback(self.worker.close)
        RoutedNetwork(self.worker).ensure(SUBNETS)
        self.driver = self.another()
        stack.callback(self.driver.stop)

    def enter(self):
        descriptor = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        setns(descriptor, CLONE_NEWNET)

    def another(self):
        return DnsmasqDns(self.worker, folder=self.folder / "dns", upstream=("127.0.0.9",))

    def ask(self, name, kind="A", index=1, version="v4"):
        server = getattr(addresses(SUBNETS, index), version)
        return self.worker.call("ask", {"server": server, "name": name, "type": kind})[0]

    def answer(self, service):
        name = service + ".nebh.internal"
        got = {
            tuple(a for k in ("A", "AAAA") for a in self.ask(name, k, i, v)["answers"])
            for i in (1, 2)
            for v in ("v4", "v6")
        }
        assert len(got) == 1, got
        return tuple(sorted(got.pop()))

    def pids(self):
        return [
            processes.ProcessId(**__import__("json").loads(p.read_text()))
            for p in sorted((self.folder / "dns").glob("*.process.json"))
        ]


@pytest.fixture(params=[FakeCase, pytest.param(RealCase, marks=pytest.mark.root)])
def case(request):
    with contextlib.ExitStack() as stack:
        yield request.param(stack)


@pytest.fixture
def real():
    with contextlib.ExitStack() as stack:
        yield RealCase(stack)


def test_it_answers_exactly_the_records(case):
    driver: DnsDriver = case.driver
    with pytest.raises(Broken):
        driver.apply(DnsRecords())
    driver.ensure(SUBNETS)
    assert case.answer("db") == ()
    driver.apply(DnsRecords(services={"db": (ONE, TWO)}))
    assert case.answer("db") == ("10.78.0.16", "10.78.0.17", "fd00:78::10", "fd00:78::11")
    driver.apply(DnsRecords(services={"web": (TWO,)}))
    assert case.answer("db") == ()
    assert case.answer("web") == ("10.78.0.17", "fd00:78::11")


def test_every_verb_may_be_repeated(case):
    for _ in range(2):
        case.driver.ensure(SUBNETS)
    for _ in range(2):
        case.driver.apply(DnsRecords(services={"db": (ONE,)}))
    assert case.answer("db") == ("10.78.0.16", "fd00:78::10")
    for _ in range(2):
        case.driver.stop()


def test_a_new_driver_goes_on_with_what_runs(case):
    case.driver.ensure(SUBNETS)
    case.driver.apply(DnsRecords(services={"db": (ONE,)}))
    again = case.another()
    again.ensure(SUBNETS)
    assert case.answer("db") == ("10.78.0.16", "fd00:78::10")


@pytest.mark.root
def test_adoption_leaves_the_process_alone_even_without_the_note(real):
    real.driver.ensure(SUBNETS)
    before = real.pids()
    assert len(before) == 2
    real.another().ensure(SUBNETS)
    assert real.pids() == before
    for note in (real.folder / "dns").glob("*.process.json"):
        note.unlink()
    again = real.another()
    again.ensure(SUBNETS)
    assert all(processes.is_alive(process) for process in before)
    again.stop()
    assert not any(processes.is_alive(process) for process in before)


@pytest.mark.root
def test_a_file_written_but_not_told_is_told_by_the_next(real):
    real.driver.ensure(SUBNETS)
    real.driver.apply(DnsRecords(services={"db": (ONE,)}))
    (real.folder / "dns" / "hosts").write_text(render_hosts(DnsRecords(services={"db": (TWO,)})))  # and then it died
    again = real.another()
    again.ensure(SUBNETS)
    again.apply(DnsRecords(services={"db": (TWO,)}))
    assert real.answer("db") == ("10.78.0.17", "fd00:78::11")


@pytest.mark.root
def test_a_killed_resolver_comes_back_with_the_next_change(real):
    real.driver.ensure(SUBNETS)
    for process in real.pids():
        processes.send_signal(process, signal.SIGKILL)
    real.driver.apply(DnsRecords(services={"db": (ONE,)}))
    assert real.answer("db") == ("10.78.0.16", "fd00:78::10")


@pytest.mark.root
def test_a_resolver_that_dies_while_it_is_told_is_started_again(real):
    real.driver.ensure(SUBNETS)
    for process in real.pids():
        processes.send_signal(process, signal.SIGSTOP)  # alive, and silent
    ending = threading.Timer(0.5, lambda: [processes.send_signal(process, signal.SIGKILL) for process in real.pids()])
    ending.start()
    try:
        real.driver.apply(DnsRecords(services={"db": (ONE,)}))
    finally:
        ending.join()
    assert real.answer("db") == ("10.78.0.16", "fd00:78::10")


@pytest.mark.root
def test_unknown_and_public_names(real):
    real.driver.ensure(SUBNETS)
    real.driver.apply(DnsRecords(services={"db": (ONE,)}))
    for version in ("v4", "v6"):
        assert real.ask("db.nebh.internal", version=version) == {"status": "ok", "answers": ["10.78.0.16"], "ttl": 0}
        for index in (1, 2):
            assert real.ask("other.nebh.internal", index=index, version=version)["status"] == "nxdomain"
        assert real.ask("example.org", version=version)["status"] == "nxdomain"
        assert real.ask("localhost", version=version)["status"] == "nxdomain"
        assert real.ask(os.uname().nodename, version=version)["status"] == "nxdomain"
        assert real.ask("example.org", index=2, version=version)["status"] in {"silent", "refused", "servfail"}


@pytest.mark.root
def test_public_names_are_asked_of_the_upstream(real):
    upstream = real.folder / "upstream"
    upstream.mkdir()
    other = DnsmasqDns(real.worker, folder=upstream)
    conf = upstream / "fake.conf"
    conf.write_text(
        "listen-address=127.0.0.9\nbind-interfaces\nno-resolv\nno-hosts\naddress=/example.org/192.0.2.7\npid-file=\nkeep-in-foreground\n"
    )
    from nebh.host.spawn import Spawn

    process = real.worker.spawn(
        Spawn(argv=(PROGRAM, f"--conf-file={conf}"), uid=other._uid, capabilities=("CAP_NET_BIND_SERVICE",))
    )
    try:
        real.driver.ensure(SUBNETS)
        assert real.ask("example.org", index=2)["answers"] == ["192.0.2.7"]
        assert real.ask("example.org", index=1)["status"] == "nxdomain"
    finally:
        processes.send_signal(process, signal.SIGKILL)


@pytest.mark.root
def test_it_runs_without_privileges_and_says_why_it_cannot_start(real):
    real.driver.ensure(SUBNETS)
    for process in real.pids():
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "\nUid:\t0" not in status
        assert "\nCapEff:\t0000000000000400\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
    real.driver.stop()
    other = ("10.79.0.0/20", "fd00:79::/64")  # addresses this host does not have
    with pytest.raises(Failed, match="cannot start the internal resolver"):
        real.driver.ensure(other)
