"""Certificates in secrets on a real node: the proxy gets them in memory, a rotation needs no deploy and no reload, and
what cannot be used leaves the old one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nebh.model.secret import SealedFor, SecretList, rotation_nonce
from nebh.model.service import RouteTls
from nebh.model.statement import Outcome
from nebh.signing.seal import box_of, seal
from nebh.signing.wish import Wish
from nebh.testing.node import HOST
from nebh.testing.pems import make_pem
from nebh.testing.whole import outcomes

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def seal_tls(node, value: bytes, version: int) -> str:
    """Sign and serve a version of the secret `tls`; return the nonce of its receipts."""
    record = next(one for one in node.signed().trusted.nodes.nodes if one.node_id == node.node_id)
    to = SealedFor(cluster_id=node.cluster_id, recipient=node.node_id, service="web", name="tls", version=version)
    box = seal(value, public=record.seal_pk, to=to)
    (node.served / "objects" / box_of(box).digest).write_bytes(box)
    listed = SecretList(
        cluster_id=node.cluster_id,
        service="web",
        name="tls",
        version=version,
        signed_at=int(time.time()),
        boxes={node.node_id: box_of(box)},
    )
    node.sign(Wish(secrets=(listed,)))
    return rotation_nonce(listed)


def trusted(folder: Path, name: str, pem: bytes) -> str:
    """Write the certificate of a PEM for curl to trust; return its path."""
    path = folder / f"{name}.crt"
    path.write_bytes(pem[: pem.index(b"-----BEGIN PRIVATE")])
    return str(path)


def test_set_rotated_refused_and_warned_of(node, tmp_path):
    first, second, bad = make_pem(HOST, days=25), make_pem(HOST, days=90), make_pem("other.test")
    one, two = trusted(tmp_path, "one", first), trusted(tmp_path, "two", second)
    counter = node.route(RouteTls(secret="tls"), secrets=("tls",))
    missing = node.assign(counter)  # nobody has set it yet
    node.until(lambda: Outcome.REFUSED in outcomes(node, missing), "a release without its certificate is refused")
    set_first = seal_tls(node, first, 1)
    node.submit("hint")
    node.until(lambda: len(node.signed().trusted.secrets) == 1, "it is listed")
    node.assign(counter)
    node.settle()
    node.until(lambda: node.https(one) == "v1", "the host has its certificate")
    assert node.get("/", host=HOST)[0] == 308
    node.until(lambda: outcomes(node, set_first) == [Outcome.ROTATED], "it is receipted")
    node.until(lambda: node.events("certificate.expiring"), "people are warned: 25 days are left")
    assert node.certificate()["source"] == "secret tls"
    (instance,) = node.instances("serving")
    assert not Path(f"/proc/{instance['pid']}/root/run/secrets/tls").exists()  # the proxy's alone
    worker, started = node.worker(), instance["started"]
    nonce = seal_tls(node, second, 2)
    node.submit("hint")
    node.until(lambda: outcomes(node, nonce) == [Outcome.ROTATED], "the rotation is receipted")
    assert (node.https(one), node.https(two)) == ("", "v1")
    assert node.worker() == worker
    assert node.instances("serving")[0]["started"] == started
    nonce = seal_tls(node, bad, 3)
    node.submit("hint")
    node.until(lambda: outcomes(node, nonce) == [Outcome.REFUSED], "what is for another host is refused")
    assert "is not for web.test, but for other.test" in node.events("secret.refused")[0]["message"]
    assert node.https(two) == "v1"
    node.end_executor()
    node.start()
    assert node.https(two) == "v1"
    keys = first.split(b"-----")[-3].strip(), second.split(b"-----")[-3].strip()
    found = [
        path
        for folder in (node.layout.state, node.layout.run)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and any(key in path.read_bytes() for key in keys)
    ]
    assert found == []  # no file of the node holds a key of a secret
    (node.layout.run / "planted").write_bytes(second)
    assert any(key in (node.layout.run / "planted").read_bytes() for key in keys)  # the search sees one that is there
