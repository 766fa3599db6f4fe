"""Other people's firewalls: left alone, and named when they drop what is ours."""

from __future__ import annotations

import shutil
import threading
import time

import pytest

from nebh.drivers.networks.foreign import find_chains
from nebh.model.network import Allow, InstanceNet, NetworkRules, addresses, link_plan
from nebh.model.service import Egress

pytestmark = pytest.mark.root
SUBNETS = ("10.77.0.0/20", "fd00:77::/64")
DOCKER = """
table ip nat {
  chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; tcp dport 8080 ip daddr 203.0.113.1 dnat to 172.17.0.2:80
 }
  chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
 }
}
table ip filter {
  chain DOCKER-USER { return
 }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    jump DOCKER-USER
    iifname "docker0" counter accept
    oifname "docker0" ct state established,related accept
    oifname "docker0" ip daddr 172.17.0.2 tcp dport 80 accept
  }
}
table inet theirs {
  counter seen { packets 7 bytes 700 }
  chain input { type filter hook input priority filter; policy accept; tcp dport 2222 counter name seen accept; tcp dport 2323 drop
 }
}
"""


def rules(egress=()):
    one = InstanceNet(link=link_plan(SUBNETS, 2048), service="web", endpoint=addresses(SUBNETS, 16), serving=True)
    return NetworkRules(
        subnets=SUBNETS, instances=(one,), allows=(Allow(source="web", target="web", port=80),), egress={"web": egress}
    )


@pytest.fixture
def docker(host):
    """A docker-like bridge with NAT, a container on it, and the firewall of somebody else."""
    host.ip("link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up\n")
    host.namespace("-docker")
    host.ip(f"link add veth9 type veth peer name eth0 netns {host.name}-docker\nlink set veth9 master docker0 up\n")
    host.ip("addr add 172.17.0.2/16 dev eth0\nlink set eth0 up\nroute add default via 172.17.0.1\n", "-docker")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    host.run("nft", "-f", "-", stdin=DOCKER)
    container = host.person(host.path("-docker"))
    container.serve("172.17.0.2", 80, "container")
    return container


def theirs(host):
    """Every table but ours, counters apart."""
    host.run("nft", "reset", "counters", "table", "inet", "theirs")
    text = host.run("nft", "-s", "list", "ruleset")
    parts = ("\n" + text).split("\ntable ")
    return sorted(part.strip() for part in parts if not part.startswith("inet nebh "))


def test_ssh_docker_and_other_tables_work_on(host, docker):
    host.root.serve(host.own4, 2222, "sshd")
    host.internet.serve(host.net4, 443, "net")
    before = theirs(host)
    assert host.internet.open(host.own4, 2222) == "sshd"  # a session that stays open all along
    assert docker.open(host.net4, 443) == "net"

    def everything_works():
        assert host.internet.say(host.own4) == "sshd:x"
        assert docker.say(host.net4) == "net:x"
        assert docker.open("172.17.0.1", 2222) == "refused"  # nobody listens there, and nobody is in between
        assert docker.open(host.own4, 2222) == "sshd"
        assert host.root.open(host.net4, 443) == "net"
        assert host.person(host.path("-net")).open(host.own4, 8080) == "container"  # a published port
        assert theirs(host) == before

    everything_works()
    host.driver.ensure(SUBNETS)
    everything_works()
    web = host.attach(2048)
    host.driver.apply(rules())
    everything_works()
    host.driver.swap(rules(egress=(Egress(cidr="0.0.0.0/0"),)))
    everything_works()
    assert web.open(host.own4, 2222) == "refused"
    assert web.open(host.own4, 8080, timeout=0.3) != "container"  # not around our rules by their address translation
    assert web.open("172.17.0.2", 80) == "refused"
    host.driver.detach("nebh0800")
    host.driver.remove()
    everything_works()


def test_metadata_is_closed_to_ours_and_open_to_others(host, docker):
    for address in ("169.254.169.254", "100.100.100.200"):
        host.internet.serve(address, 80, "metadata")
    host.driver.ensure(SUBNETS)
    web = host.attach(2048)
    host.driver.apply(rules(egress=(Egress(cidr="0.0.0.0/0"), Egress(cidr="169.254.0.0/16"))))
    host.run("nft", "insert", "rule", "ip", "filter", "DOCKER-USER", "iifname", '"nebh*"', "accept")
    for address in ("169.254.169.254", "100.100.100.200"):
        assert docker.open(address, 80) == "metadata"  # it is there for those who are none of ours
        assert web.open(address, 80, timeout=0.3) == "silent"
    assert host.driver.counters()["never"] > 0


def test_a_busy_stream_does_not_notice_changes(host, docker):
    host.root.serve(host.own4, 2222, "sshd")
    assert host.internet.open(host.own4, 2222) == "sshd"
    worst, stop = [0.0], threading.Event()

    def talk():
        while not stop.is_set():
            begin = time.monotonic()
            assert host.internet.say(host.own4) == "sshd:x"
            worst[0] = max(worst[0], time.monotonic() - begin)
            time.sleep(0.005)

    host.driver.ensure(SUBNETS)
    thread = threading.Thread(target=talk)
    thread.start()
    try:
        for number in range(20):
            host.driver.apply(rules(egress=(Egress(cidr="0.0.0.0/0"),) * (number % 2)))
    finally:
        stop.set()
        thread.join()
    assert 0 < worst[0] < 0.9


def test_a_foreign_drop_is_found_and_the_advice_helps(host, docker):
    host.driver.ensure(SUBNETS)
    host.driver.apply(rules())
    found = host.driver.probe_foreign_drop()
    assert found.between == {"v4": "silent", "v6": "ok"}
    assert [(c.table, c.chain) for c in found.chains] == [("filter", "FORWARD")]
    assert found.chains[0].advice == (
        "iptables -I DOCKER-USER -i nebh+ -j ACCEPT",
        "iptables -I DOCKER-USER -o nebh+ -j ACCEPT",
    )
    for way in ("iifname", "oifname"):  # the same in nft's words
        host.run("nft", "insert", "rule", "ip", "filter", "DOCKER-USER", way, '"nebh*"', "accept")
    begin = time.monotonic()
    found = host.driver.probe_foreign_drop()
    assert found.is_fine
    assert found.chains == ()
    assert time.monotonic() - begin < 5
    assert host.driver.links() == ()
    assert "10.77.0.4" not in host.run("nft", "list", "set", "inet", "nebh", "links4")


FIREWALLD = """
table inet firewalld {
  chain filter_INPUT { type filter hook input priority filter + 10; policy accept; ct state established accept; iifname "lo" accept; reject with icmpx admin-prohibited
 }
  chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; jump zones
 }
  chain zones { ct state established accept; reject with icmpx admin-prohibited
 }
}
table inet harmless { chain forward { type filter hook forward priority 5; policy accept; counter accept
 }
}
table ip6 plain { chain fw { type filter hook forward priority 0; policy drop
 }
}
"""


def test_advice_for_firewalld_and_plain_tables(host):
    host.driver.ensure(SUBNETS)
    host.run("nft", "-f", "-", stdin=FIREWALLD)
    chains = {(c.table, c.chain): c for c in find_chains(host.run("nft", "-j", "list", "ruleset"))}
    assert set(chains) == {("firewalld", "filter_INPUT"), ("firewalld", "filter_FORWARD"), ("plain", "fw")}
    assert chains["firewalld", "filter_FORWARD"].advice[0].startswith("firewall-cmd")
    assert chains["plain", "fw"].advice[0] == "nft insert rule ip6 plain fw iifname '\"nebh*\"' accept"
    host.driver.apply(rules())
    assert host.driver.probe_foreign_drop().between["v4"] == "refused"
    for command in chains["plain", "fw"].advice:
        host.run("sh", "-c", command)
    host.run("nft", "delete", "table", "inet", "firewalld")
    assert host.driver.probe_foreign_drop().is_fine


@pytest.mark.skipif(not shutil.which("iptables-nft"), reason="needs iptables-nft")
def test_the_advice_for_iptables_can_be_pasted(host):
    host.driver.ensure(SUBNETS)
    host.driver.apply(rules())
    for program in ("iptables-nft", "ip6tables-nft"):
        host.run(program, "-P", "FORWARD", "DROP")
        host.run(program, "-A", "FORWARD", "-m", "comment", "--comment", "theirs", "-p", "tcp", "-j", "REJECT")
    found = host.driver.probe_foreign_drop()
    assert not found.is_fine
    assert {(c.family, c.chain) for c in found.chains} == {("ip", "FORWARD"), ("ip6", "FORWARD")}
    for chain in found.chains:
        for command in chain.advice:
            host.run("sh", "-c", command.replace("tables ", "tables-nft ", 1))
    assert host.driver.probe_foreign_drop().is_fine
