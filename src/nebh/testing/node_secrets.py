"""Secrets of the one service of a `testing.node.Node`: sealed, signed and served as an operator's command line would."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from nebh.model.policy import Policy
from nebh.model.secret import SealedFor, SecretList, SecretUse, rotation_nonce
from nebh.signing.seal import box_of, seal
from nebh.signing.wish import Wish
from nebh.testing.node import Node

USE = SecretUse(name="token", path="/run/secrets/token", signal="USR1")


def seal_token(node: Node, value: bytes, version: int, *, name: str = USE.name, policy: Policy | None = None) -> str:
    """Sign and serve a version of a secret; return the nonce that receipts of its rotation repeat. policy: signed with it,
    None = one that names it where none does."""
    state = node.signed()
    record = next(one for one in state.trusted.nodes.nodes if one.node_id == node.node_id)
    to = SealedFor(cluster_id=node.cluster_id, recipient=node.node_id, service="web", name=name, version=version)
    box = seal(value, public=record.seal_pk, to=to)
    (node.served / "objects" / box_of(box).digest).write_bytes(box)
    listed = SecretList(
        cluster_id=node.cluster_id,
        service="web",
        name=name,
        version=version,
        signed_at=int(time.time()),
        boxes={node.node_id: box_of(box)},
    )
    policies: tuple[Policy, ...] = (policy,) if policy is not None else ()
    if not policies and name not in state.trusted.policies["web"].secrets:
        policies = (dataclasses.replace(node.next_policy(), secrets=(name,)),)
    node.sign(Wish(policies=policies, secrets=(listed,)))
    return rotation_nonce(listed)


def newest_version(node: Node) -> int:
    """Return the signed version, 0 = none is."""
    listed = node.signed().trusted.secrets.get(f"web/{USE.name}")
    return listed.version if listed is not None else 0


def read_token(node: Node) -> bytes:
    """Return what the serving instance sees, through its first process."""
    (one,) = node.instances("serving")
    return Path(f"/proc/{one['pid']}/root{USE.path}").read_bytes()


def rotating(node: Node) -> tuple[int, str]:
    """Have a release run with the secret, then rotate it; return (its counter, the rotation's nonce)."""
    version = newest_version(node) + 1
    seal_token(node, f"value {version}".encode(), version)
    counter = node.publish_release(secrets=(USE,), policy_min_version=node.policy_version)
    node.assign(counter)
    node.settle()
    assert read_token(node) == f"value {version}".encode()
    nonce = seal_token(node, f"value {version + 1}".encode(), version + 1)
    node.submit("hint")
    return counter, nonce
