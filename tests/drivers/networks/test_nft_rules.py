"""The table's text, held by golden files (NEBH_UPDATE_GOLDEN=1 writes them anew), and what it comes to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nebh.drivers.networks.nft_rules import build_table, parse_counters, render_change, render_removal, render_table
from nebh.model.errors import BadInput, Broken
from nebh.model.network import Allow, InstanceNet, NetworkRules, addresses, link_plan
from nebh.model.service import Egress

GOLDEN = Path(__file__).parents[2] / "golden"
SUBNETS = ("10.77.0.0/20", "fd00:77::/64")


def golden(name, text):
    path = GOLDEN / name
    if os.environ.get("NEBH_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def instance(index, service, endpoint, *, serving=True):
    return InstanceNet(
        link=link_plan(SUBNETS, index), service=service, endpoint=addresses(SUBNETS, endpoint), serving=serving
    )


def rules(*, serving=2049, allows=(("web", "db", 5432),), egress=None):
    return NetworkRules(
        subnets=SUBNETS,
        instances=(
            instance(2048, "web", 16),
            instance(2049, "db", 17, serving=serving == 2049),
            instance(2050, "db", 17, serving=serving == 2050),
        ),
        allows=tuple(Allow(source=s, target=t, port=p) for s, t, p in allows),
        egress=egress or {},
    )


EGRESS = {
    "db": (),
    "web": (
        Egress(cidr="dns"),
        Egress(cidr="0.0.0.0/0", port=443),
        Egress(cidr="::/0", port=443),
        Egress(cidr="10.1.0.0/16", port=53, protocol="udp"),
        Egress(cidr="8.0.0.0/6"),
        Egress(cidr="fd99::/64"),
    ),
}


def test_golden_empty():
    golden("nft_empty.nft", render_table(build_table(NetworkRules(subnets=SUBNETS))))


def test_golden_services():
    golden("nft_services.nft", render_table(build_table(rules(egress=EGRESS))))


def test_golden_change():
    change = render_change(build_table(rules(egress=EGRESS)), build_table(rules(egress=EGRESS, serving=2050)))
    golden("nft_change.nft", change)
    assert change.count("endpoints4") == 2


def test_a_change_of_text_needs_the_whole_table():
    assert render_change(build_table(rules()), build_table(rules(egress=EGRESS))) is None
    assert render_change(build_table(rules()), build_table(rules())) == ""


def test_the_order_of_rules_does_not_matter():
    one = rules(egress=EGRESS, allows=(("web", "db", 1), ("db", "web", 2)))
    two = rules(egress=dict(reversed(EGRESS.items())), allows=(("db", "web", 2), ("web", "db", 1)))
    assert render_table(build_table(one)) == render_table(build_table(two))


@pytest.mark.parametrize(
    "egress",
    [
        Egress(cidr="10.0.0.1/8"),
        Egress(cidr="1.2.3.0/24; flush ruleset"),
        Egress(cidr="1.2.3.0/24", protocol="icmp"),
        Egress(cidr="1.2.3.0/24", port=65536),
        Egress(cidr="2001:db8::1%x; flush ruleset/128"),
    ],
)
def test_what_is_no_egress_is_refused(egress):
    with pytest.raises(BadInput):
        build_table(rules(egress={"web": (egress,)}))


def test_what_is_no_service_name_is_refused():
    with pytest.raises(BadInput):
        build_table(rules(egress={"web { } flush ruleset": ()}))


def test_one_endpoint_has_one_server():
    both = NetworkRules(subnets=SUBNETS, instances=(instance(2048, "a", 16), instance(2049, "a", 16)))
    with pytest.raises(Broken):
        build_table(both)


def test_private_blocks_are_open_only_when_named():
    text = build_table(rules(egress=EGRESS)).skeleton
    assert "ip daddr 0.0.0.0/0 ip daddr != @private4 tcp dport 443 goto open" in text
    assert "ip daddr 8.0.0.0/6 ip daddr != @private4 meta l4proto tcp goto open" in text
    assert "ip daddr 10.1.0.0/16 udp dport 53 goto open" in text
    assert "ip6 daddr fd99::/64 meta l4proto tcp goto open" in text


def test_removal_names_our_table_alone():
    assert render_removal().split() == ["table", "inet", "nebh", "delete", "table", "inet", "nebh"]


def test_counters_are_read_back():
    text = "table inet nebh {\n\tcounter refused_a-b {\n\t\tpackets 3 bytes 180\n\t}\n\tcounter never {\n\t\tpackets 0 bytes 0\n\t}\n}"
    assert parse_counters(text) == {"refused_a-b": 3, "never": 0}
