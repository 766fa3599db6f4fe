"""Certificates from a real ACME server (serles-acme) for a real node: HTTP-01 through its own proxy, renewals, faults."""

from __future__ import annotations

import signal
import time

import pytest

from nebh.testing.node import HOST

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(300)]


def test_got_renewed_and_kept_over_kills(node, authority):
    authority.say(life=30)
    node.deploy_acme(authority)
    node.until(lambda: node.https(authority.pem) == "v1", "the host has its certificate", patience=40)
    assert node.get("/", host=HOST)[0] == 308  # from now on, and not before
    assert authority.asked() == [HOST]
    row = node.certificate()
    assert (row["host"], row["issuer"], row["problem"]) == (HOST, "Test Authority", "")
    assert node.events("certificate.obtained")[0]["service"] == "web"
    worker, first = node.worker(), node.serial()
    node.end_executor(signal.SIGKILL)
    assert node.https(authority.pem) == "v1"  # the proxy needs no executor
    node.start()
    authority.say(life=3600)
    node.until(lambda: len(node.events("certificate.obtained")) == 2, "it was renewed", patience=60)
    node.until(lambda: node.serial() not in ("", first), "the proxy has the new one", patience=10)
    assert node.https(authority.pem) == "v1"
    assert node.worker() == worker  # no reload
    assert node.certificate()["not_after"] > (time.time() + 3000) * 1000
    assert authority.asked() == [HOST, HOST]
    files = [path for path in node.layout.run.rglob("*.pem") if path.is_file()]
    assert files == []  # keys of the proxy are files only while it starts


@pytest.mark.parametrize("point", ["certificate.install.before", "certificate.install.after"])
def test_killed_while_the_proxy_gets_it(node, authority, point):
    node.end_executor()
    node.start(fault=point)
    node.deploy_unsettled(authority)
    assert node.wait_executor(patience=60) == -signal.SIGKILL, node.tail()
    node.start()
    node.until(lambda: node.https(authority.pem) == "v1", "the host has its certificate", patience=40)
    assert authority.asked() == [HOST]  # it was journalled: nobody was asked twice


def test_killed_while_the_authority_signs(node, authority):
    authority.say(slow=3)
    node.deploy_acme(authority)
    node.until(authority.asked, "the authority was asked", patience=40)
    node.end_executor(signal.SIGKILL)
    authority.say()
    node.start()
    node.until(lambda: node.https(authority.pem) == "v1", "the host has its certificate", patience=40)
    assert len(authority.asked()) == 2


@pytest.mark.parametrize(
    ("mode", "more", "said"),
    [
        ("other-key", {}, "the key does not belong"),
        ("other-name", {}, "is not for web.test, but for evil.test"),
        ("other-authority", {}, "leads to no authority that counts"),
        ("garbage", {}, "cannot be read"),
        ("good", {"life": 100, "start": 90_000}, "begins on"),
        ("good", {"life": 100, "start": -90_000}, "expired on"),
        ("good", {}, ""),
    ],
)
def test_what_the_authority_gives_is_looked_at(node, authority, mode, more, said):
    """The last one is the control: the same way, and it is used."""
    authority.say(mode, **more)
    node.deploy_acme(authority)
    if not said:
        node.until(lambda: node.https(authority.pem) == "v1", "the host has its certificate", patience=40)
        return
    node.until(lambda: node.events("certificate.failed"), "the failure is said", patience=40)
    event = node.events("certificate.failed")[0]
    assert said in event["message"]
    assert event["hint"]
    assert node.https(authority.pem) == ""
    assert node.page() == "v1"  # plain HTTP goes on, without a redirect to nothing
    assert node.certificate()["problem"]
    assert node.certificate()["next_try"] > time.time() * 1000 + 20_000


def test_an_authority_that_is_down_and_one_that_cannot_see_the_host(node, authority):
    authority.process.kill()
    authority.process.wait(10)
    node.deploy_acme(authority)
    node.until(lambda: node.events("certificate.failed"), "the failure is said", patience=60)
    event = node.events("certificate.failed")[0]
    assert "must reach https://127.0.0.1" in event["hint"]
    assert node.page() == "v1"
