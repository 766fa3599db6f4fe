"""Certificates on the command line: what a secret of a route must hold, and the list of what nodes have."""

from __future__ import annotations

import time

import pytest

from nebh.model.certificate import CertificateRow
from nebh.testing.pems import make_pem

pytestmark = pytest.mark.e2e

ROUTES = "routes:\n  - {host: shop.test, tls: {secret: shop-tls}}\n"
DAY = 86_400_000


def written(rig, name: str, data: bytes) -> str:
    path = rig.folder / name
    path.write_bytes(data)
    return str(path)


def test_01_a_route_names_a_secret_that_is_needed_for_a_deploy(rig):
    status, _, err = rig.run("deploy", rig.spec("t1", name="shop", more=ROUTES), "--yes-widen")
    assert status == 2
    assert "nebh secret set shop/shop-tls" in err
    rig.good("secret", "set", "shop/shop-tls", "--file", written(rig, "good.pem", make_pem("shop.test")))
    rig.good("deploy", rig.spec("t1", name="shop", more=ROUTES), "--yes-widen")
    (row,) = rig.data("secret", "list", "shop")["secrets"]
    assert (row["secret"], row["version"], row["lacking"]) == ("shop/shop-tls", 1, [])


def test_02_what_cannot_be_its_certificate_is_refused_before_anything_is_sealed(rig):
    for name, data, said in (
        ("text", b"hello\n", "no key in it"),
        ("foreign", make_pem("other.test"), "is not for shop.test, but for other.test"),
        ("old", make_pem("shop.test", days=-1), "expired on"),
    ):
        status, _, err = rig.run("secret", "set", "shop/shop-tls", "--file", written(rig, name, data), "--detach")
        assert status == 2
        assert said in err
        assert "Traceback" not in err
    (row,) = rig.data("secret", "list", "shop")["secrets"]
    assert (row["version"], row["vault"]) == (1, 1)
    rig.good("secret", "set", "shop/shop-tls", "--file", written(rig, "new.pem", make_pem("shop.test")), "--detach")
    (row,) = rig.data("secret", "list", "shop")["secrets"]
    assert (row["version"], row["vault"]) == (2, 2)


def test_03_the_list_says_until_when_and_why_not(rig):
    now = int(time.time() * 1000)
    rig.node.certificates = (
        CertificateRow(
            host="a.test",
            service="shop",
            source="secret shop-tls",
            not_before=1,
            not_after=now + 9 * DAY,
            issuer="Some CA",
        ),
        CertificateRow(
            host="b.test",
            service="blog",
            source="https://ca.test/d",
            problem="no such\x1b[2J name",
            next_try=now + DAY,
        ),
        CertificateRow(host="c.test", service="blog", source="secret c", not_before=1, not_after=now - DAY),
    )
    end = time.monotonic() + 30
    while not rig.data("certificate", "list")["certificates"]:
        assert time.monotonic() < end
        rig.run("secret", "set", "shop/shop-tls", "--file", written(rig, "x.pem", make_pem("shop.test")))
        time.sleep(0.2)
    assert [one["host"] for one in rig.data("certificate", "list", "blog")["certificates"]] == ["b.test", "c.test"]
    text = rig.good("certificate", "list")
    assert "Some CA" in text
    assert "waiting, no HTTPS; tried again at" in text
    assert "expired" in text
    assert "\x1b[2J" not in text
    assert "b.test: no such" in text
