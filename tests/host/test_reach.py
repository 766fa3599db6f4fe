"""Which addresses are internal, and which proxy makes a connection."""

from __future__ import annotations

import pytest

from nebh.host.reach import Place, Reach, is_internal, is_public, parse_place, parse_proxy
from nebh.model.errors import BadInput

INTERNAL = [
    *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00::1", "ff02::1", "2001:db8::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2001:0:a00:1::1", "fec0::1"),
]
PUBLIC = [
    *("1.1.1.1", "151.101.1.1", "2606:4700:4700::1111", "2a00:1450:4001::8a", "::ffff:1.1.1.1"),
    *("64:ff9b::101:101", "2002:101:101::1"),
]


@pytest.mark.parametrize("address", INTERNAL)
def test_an_address_that_is_not_of_the_internet_is_internal(address):
    assert not is_public(address)
    assert is_internal(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_not_internal(address):
    assert is_public(address)


def test_an_address_is_read_with_or_without_its_port():
    assert parse_place("[fd00::1]:5000") == Place(host="fd00::1", port=5000)
    assert parse_place("Registry.example", port=443) == Place(host="registry.example", port=443)
    assert str(Place(host="fd00::1", port=80)) == "[fd00::1]:80"
    for wrong in ("", ":80", "a:b", "host", "host:70000", "a@b:80", "host:80/x"):
        with pytest.raises(ValueError):
            parse_place(wrong)


def test_a_persons_proxy_is_asked_unless_the_host_is_named():
    proxy = parse_proxy("http://me:p%40ss@proxy.example:8080", name="HTTPS_PROXY")
    assert (proxy.place, proxy.tls) == (Place(host="proxy.example", port=8080), False)
    assert proxy.authorization == "Basic bWU6cEBzcw=="
    reach = Reach(proxies={"https": proxy}, direct="inside.example, 10.0.0.0/8")
    assert reach.proxy_for("https", "quay.io") == proxy
    assert reach.proxy_for("http", "quay.io") is None
    for host in ("inside.example", "a.inside.example", "10.1.2.3"):
        assert reach.proxy_for("https", host) is None, host


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http://:80", "http://host:port"])
def test_a_proxy_of_another_kind_is_an_error(value):
    with pytest.raises(BadInput, match="HTTPS_PROXY"):
        parse_proxy(value, name="HTTPS_PROXY")
