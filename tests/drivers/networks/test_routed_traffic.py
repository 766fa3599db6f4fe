"""Real packets through the routed network: who reaches whom, over IPv4 and IPv6."""

from __future__ import annotations

import pytest

from nebh.model.network import Allow, InstanceNet, NetworkRules, addresses, link_plan
from nebh.model.service import Egress

pytestmark = pytest.mark.root
SUBNETS = ("10.77.0.0/20", "fd00:77::/64")
WEB, DB, DB2, TALKER = 2048, 2049, 2050, 2051
BOTH = ("v4", "v6")


def at(index, version):
    return getattr(addresses(SUBNETS, index), version)


def instance(index, service, endpoint, *, serving=True):
    return InstanceNet(
        link=link_plan(SUBNETS, index), service=service, endpoint=addresses(SUBNETS, endpoint), serving=serving
    )


WEB_TO_DB = (Allow(source="web", target="db", port=5432),)


def rules(*, serving=DB, allows=WEB_TO_DB, egress=None):
    return NetworkRules(
        subnets=SUBNETS,
        instances=(
            instance(WEB, "web", 16),
            instance(DB, "db", 17, serving=serving == DB),
            instance(DB2, "db", 17, serving=serving == DB2),
            instance(TALKER, "talker", 18),
        ),
        allows=allows,
        egress=egress if egress is not None else {"web": (), "db": (), "talker": ()},
    )


@pytest.fixture
def people(host):
    host.driver.ensure(SUBNETS)
    made = {index: host.attach(index) for index in (WEB, DB, DB2, TALKER)}
    for index, name in ((DB, "old"), (DB2, "new")):
        for version in BOTH:
            for port in (5432, 9999):
                made[index].serve(at(index, version), port, name)
    host.driver.apply(rules())
    return made


@pytest.mark.parametrize("version", BOTH)
def test_declared_connections_pass_and_others_are_refused(host, people, version):
    web, talker = people[WEB], people[TALKER]
    endpoint = at(17, version)
    assert web.open(endpoint, 5432) == "old"
    assert people[DB].served() == [at(WEB, version)]  # the target sees who it is
    assert web.open(endpoint, 9999) == "refused"  # a port nobody declared
    assert web.open(at(DB, version), 5432) == "refused"  # around the endpoint
    assert web.open(at(99, version), 5432) in {"refused", "silent"}  # an endpoint nobody has
    assert talker.open(endpoint, 5432) == "refused"  # a service nobody declared
    assert host.driver.counters()["refused_between"] >= 3
    assert host.root.open(at(DB, version), 9999) == "old"  # the host itself (probes, proxy) reaches instances
    assert web.datagram(endpoint, 5432) in {"refused", "silent"}


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("verb", ["swap", "apply"])
def test_a_swap_moves_new_connections_and_leaves_old_ones(host, people, version, verb):
    web, endpoint = people[WEB], at(17, version)
    assert web.open(endpoint, 5432) == "old"
    getattr(host.driver, verb)(rules(serving=DB2))
    assert web.say(endpoint) == "old:x"
    fresh = host.person(host.driver.attach(link_plan(SUBNETS, 2060)))
    more = rules(serving=DB2)
    host.driver.swap(
        NetworkRules(
            subnets=SUBNETS,
            instances=(*more.instances, instance(2060, "web", 19)),
            allows=more.allows,
            egress=more.egress,
        )
    )
    assert fresh.open(endpoint, 5432) == "new"
    assert web.say(endpoint) == "old:x"


@pytest.mark.parametrize("version", BOTH)
def test_a_service_may_reach_itself_when_declared(host, people, version):
    endpoint = at(17, version)
    assert people[DB].open(endpoint, 5432) == "refused"
    host.driver.apply(rules(allows=(Allow(source="db", target="db", port=5432),)))
    assert people[DB].open(endpoint, 5432) == "old"
    assert people[DB].say(endpoint) == "old:x"
    assert people[DB2].open(endpoint, 5432) == "old"


@pytest.mark.parametrize("version", BOTH)
def test_taking_an_allow_away_ends_connections_too(host, people, version):
    web, endpoint = people[WEB], at(17, version)
    assert web.open(endpoint, 5432) == "old"
    host.driver.swap(rules(allows=()))
    assert web.say(endpoint) == "refused"
    assert web.open(endpoint, 5432) == "refused"


@pytest.mark.parametrize("version", BOTH)
def test_egress_is_closed_until_declared(host, people, version):
    outside = host.net4 if version == "v4" else host.net6
    everything = "0.0.0.0/0" if version == "v4" else "::/0"
    for port in (443, 80, 53):
        host.internet.serve(outside, port, "net")
    web = people[WEB]
    assert web.open(outside, 443) == "refused"
    host.driver.apply(rules(egress={"web": (Egress(cidr=everything, port=443),), "talker": ()}))
    assert web.open(outside, 443) == "net"
    assert host.internet.served() == [host.own4 if version == "v4" else host.own6]  # masqueraded
    assert web.open(outside, 80) == "refused"
    assert people[TALKER].open(outside, 443) == "refused"
    assert web.datagram(outside, 53) in {"refused", "silent"}
    host.driver.apply(rules(egress={"web": (Egress(cidr=everything, port=53, protocol="udp"),), "talker": ()}))
    assert web.datagram(outside, 53) == "net"
    counters = host.driver.counters()
    assert people[TALKER].open(outside, 443) == "refused"
    assert host.driver.counters()["refused"] == counters["refused"] + 1  # talker has no egress chain to jump to


def test_the_internet_is_neither_private_networks_nor_metadata(host, people):
    for address in (*host.metadata, *host.private):
        host.internet.serve(address, 80, "there")
    open_all = (
        Egress(cidr="0.0.0.0/0"),
        Egress(cidr="::/0"),
        Egress(cidr="169.254.0.0/16"),
        Egress(cidr="fd00:ec2::254/128"),
    )
    host.driver.apply(rules(egress={"web": open_all}))
    web = people[WEB]
    for address in host.metadata:
        assert host.root.open(address, 80) == "there"  # it is there, for the host
        assert web.open(address, 80, timeout=0.3) == "silent"
    for address in host.private:
        assert host.root.open(address, 80) == "there"
        assert web.open(address, 80) == "refused"
    host.driver.apply(rules(egress={"web": (*open_all, Egress(cidr="10.1.0.0/16"), Egress(cidr="fd99::/64", port=80))}))
    assert web.open("10.1.2.3", 80) == "there"
    assert web.open("fd99::7", 80) == "there"
    assert web.open("192.168.7.7", 80) == "refused"


def test_the_host_is_closed_to_instances(host, people):
    host.driver.apply(rules(egress={"web": (Egress(cidr="0.0.0.0/0"), Egress(cidr="::/0"), Egress(cidr="10.0.0.0/8"))}))
    for address in (host.own4, host.own6, at(1, "v4"), at(3, "v4"), at(1, "v6"), at(3, "v6")):
        host.root.serve(address, 8080, "host")
        assert host.root.open(address, 8080) == "host"
        assert people[WEB].open(address, 8080) == "refused"
    assert host.internet.open(host.own4, 8080) == "host"  # positive control: others reach the host as before


@pytest.mark.parametrize("version", BOTH)
def test_resolvers_answer_those_who_may_ask(host, people, version):
    for index in (1, 2):
        host.root.serve(at(index, version), 53, "dns")
    host.driver.apply(rules(egress={"web": (Egress(cidr="dns"),)}))
    assert people[WEB].datagram(at(1, version), 53) == "dns"
    assert people[TALKER].datagram(at(1, version), 53) == "dns"
    assert people[WEB].datagram(at(2, version), 53) == "dns"
    assert people[WEB].open(at(2, version), 53) == "dns"
    assert people[TALKER].datagram(at(2, version), 53) in {"refused", "silent"}
    host.ip(f"route add {SUBNETS[0]} via {host.own4}\nroute add {SUBNETS[1]} via {host.own6}\n", "-net")
    assert host.internet.datagram(at(1, version), 53) == "silent"  # not a resolver for the neighbourhood


@pytest.mark.parametrize("version", BOTH)
def test_nobody_outside_reaches_an_instance(host, people, version):
    host.ip(f"route add {SUBNETS[0]} via {host.own4}\nroute add {SUBNETS[1]} via {host.own6}\n", "-net")
    assert host.internet.open(at(DB, version), 9999, timeout=0.3) == "silent"
    assert host.driver.counters()["refused_outside"] > 0


@pytest.mark.parametrize("version", BOTH)
def test_a_borrowed_source_address_is_dropped(host, people, version):
    length = {"v4": 32, "v6": 128}[version]
    more = ["nodad"] if version == "v6" else []
    host.run(
        "nsenter",
        f"--net={people[TALKER].path}",
        "ip",
        "addr",
        "add",
        f"{at(WEB, version)}/{length}",
        "dev",
        "eth0",
        *more,
    )
    assert people[TALKER].open(at(17, version), 5432, source=at(WEB, version), timeout=0.3) == "silent"
    assert host.driver.counters()["spoofed"] > 0
    assert people[WEB].open(at(17, version), 5432) == "old"


def test_one_instance_cannot_hold_all_connections(host, people):
    host.driver._connections = 20
    host.driver.apply(rules())
    web = people[WEB]
    answers = [web.open(at(17, "v4"), 5432, timeout=0.2) for _ in range(24)]
    assert answers == ["old"] * 20 + ["silent"] * 4
    assert host.driver.counters()["flooded"] > 0
    assert host.root.open(at(DB, "v4"), 5432) == "old"
