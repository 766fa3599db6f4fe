"""The resolvers' texts, held by golden files (NEBH_UPDATE_GOLDEN=1 writes them anew)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nebh.drivers.dns.config import render_hosts, render_internal, render_public
from nebh.model.errors import BadInput
from nebh.model.network import AddressPair, DnsRecords

GOLDEN = Path(__file__).parents[2] / "golden"
ONE = AddressPair(v4="10.77.0.1", v6="fd00:77::1")
TWO = AddressPair(v4="10.77.0.2", v6="fd00:77::2")


def golden(name, text):
    path = GOLDEN / name
    if os.environ.get("NEBH_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_golden_internal():
    golden("dnsmasq_internal.conf", render_internal(ONE, hosts="/var/lib/nebh/dns/hosts"))


def test_golden_public():
    golden("dnsmasq_public.conf", render_public(TWO, hosts="/var/lib/nebh/dns/hosts"))


def test_golden_hosts():
    golden("dnsmasq_hosts", render_hosts(DnsRecords(services={"web": (TWO,), "db": (ONE, TWO)})))


def test_an_upstream_replaces_the_hosts_resolvers():
    text = render_public(TWO, hosts="/h", upstream=("192.0.2.1",))
    assert "server=192.0.2.1\n" in text
    assert "resolv-file" not in text


def test_without_ipv6_it_listens_on_ipv4_alone():
    assert render_internal(ONE, hosts="/h", ipv6=False).count("listen-address") == 1


@pytest.mark.parametrize("name", ["a b", "", "x.y", "-a", "a\nb"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(BadInput):
        render_hosts(DnsRecords(services={name: (ONE,)}))


@pytest.mark.parametrize("address", ["10.0.0.1 evil.example", "fe80::1%x\n1.2.3.4 other", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(BadInput):
        render_hosts(DnsRecords(services={"db": (AddressPair(v4=address, v6="::1"),)}))
