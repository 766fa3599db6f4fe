"""Certificates from a real ACME server (serles-acme) for a real node: HTTP-01 through its own proxy, renewals, faults."""

from __future__ import annotations

import signal
import time

import pytest

from nebh.testing.node import HOST

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


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
