"""A controller that holds the boxes, and a CI key that wants more than its policy: neither moves a value."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nebh.model.secret import SealedFor, SecretUse
from nebh.model.statement import Outcome
from nebh.signing.seal import public_of, seal
from nebh.testing.node import Node
from nebh.testing.node_secrets import USE, newest_version, read_token, rotating, seal_token
from nebh.testing.whole import outcomes

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def using(node: Node) -> Node:
    """A release runs with the secret, and a rotation has reached it: the control of everything below."""
    _, nonce = rotating(node)
    node.until(lambda: outcomes(node, nonce) == [Outcome.ROTATED], "it was rotated")
    return node


def box_path(node: Node, version: int) -> Path:
    listed = node.signed().trusted.secrets[f"web/{USE.name}"]
    assert listed.version == version
    return node.served / "objects" / listed.boxes[node.node_id].digest


def other_box(node: Node, size: int, how: str) -> bytes:
    """Return a box of the same length that is not the signed one."""
    (record,) = node.signed().trusted.nodes.nodes
    fields = {
        "cluster_id": node.cluster_id,
        "recipient": node.node_id,
        "service": "web",
        "name": USE.name,
        "version": 9,
    }
    public = record.seal_pk
    match how:
        case "of another node":
            public, fields["recipient"] = public_of(b"o" * 32), "e" * 64
        case "of another service":
            fields["service"] = "shop"
        case "forged for exactly this":
            fields["version"] = newest_version(node)
    return seal(b"x" * (size - 48), public=public, to=SealedFor(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["of another node", "of another service", "forged for exactly this", "cut", "gone"])
def test_a_controller_cannot_swap_a_box(using: Node, how: str) -> None:
    node = using
    before, (serving,) = read_token(node), node.instances("serving")
    version = newest_version(node) + 1
    nonce = seal_token(node, f"value {version}".encode(), version)
    path = box_path(node, version)
    right = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(right[:-1] if how == "cut" else other_box(node, len(right), how))
    node.submit("hint")
    node.until(lambda: kinds(node) & {"secret.refused", "secret.unreachable"}, "it was noticed")
    assert read_token(node) == before
    assert node.instances("serving") == [serving]
    assert outcomes(node, nonce) in ([], [Outcome.REFUSED])
    version += 1
    nonce = seal_token(node, f"value {version}".encode(), version)
    node.submit("hint")
    node.until(lambda: outcomes(node, nonce) == [Outcome.ROTATED], "the next right one is taken")
    assert read_token(node) == f"value {version}".encode()


def kinds(node: Node) -> set[str]:
    news = node.ask({"op": "poll", "receipt": 0, "event": 0, "wait_ms": 0})["events"]
    return {one["kind"] for one in news[-8:]}


def test_an_older_list_is_not_gone_back_to(using: Node) -> None:
    node = using
    older = {path: path.read_bytes() for path in (node.served / "metadata").iterdir() if path.is_file()}
    version = newest_version(node) + 1
    nonce = seal_token(node, f"value {version}".encode(), version)
    node.submit("hint")
    node.until(lambda: outcomes(node, nonce) == [Outcome.ROTATED], "it was rotated")
    newer = {path: path.read_bytes() for path in (node.served / "metadata").iterdir() if path.is_file()}
    for path in newer:
        path.unlink()
    for path, data in older.items():
        path.write_bytes(data)
    node.submit("hint")
    node.until(lambda: "metadata.refused" in kinds(node), "the older set was refused")
    time.sleep(0.5)
    assert read_token(node) == f"value {version}".encode()
    for path, data in newer.items():
        path.write_bytes(data)


def test_a_release_that_wants_a_secret_its_policy_does_not_name(using: Node) -> None:
    node = using
    before, (serving,) = read_token(node), node.instances("serving")
    greedy = SecretUse(name="root-password", path="/run/secrets/root-password")
    for uses in ((greedy,), (USE, greedy)):
        nonce = node.assign(node.publish_release(secrets=uses, policy_min_version=node.policy_version))
        node.settle()
        assert outcomes(node, nonce)[-1] is Outcome.REFUSED
        (said,) = {one["reason"] for one in node.history()[:1]}
        assert "which the policy does not name" in said
    assert (read_token(node), node.instances("serving")) == (before, [serving])
    nonce = node.assign(node.publish_release(secrets=(USE,), policy_min_version=node.policy_version))
    node.settle()
    assert outcomes(node, nonce)[-1] is Outcome.COMMITTED, "the control"
