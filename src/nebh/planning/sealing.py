"""Which node needs a box of which secret: what policies and node records ask for against what is signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nebh.model.node import NodeRecord, NodeStatus
from nebh.model.policy import Policy
from nebh.model.secret import SecretList, key_of
from nebh.planning.schedule import is_placed_on


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """One secret of a policy. readers: nodes that may read it; lacking: those of them without a box; surplus: ids of
    nodes that have a box and may not read it any more; version: as signed, 0 = no list is."""

    service: str
    name: str
    version: int
    readers: tuple[NodeRecord, ...]
    lacking: tuple[NodeRecord, ...]
    surplus: tuple[str, ...]

    @property
    def key(self) -> str:
        """`service/name`."""
        return key_of(self.service, self.name)


def readers_of(policy: Policy, nodes: Iterable[NodeRecord]) -> tuple[NodeRecord, ...]:
    """Return the active nodes that the policy admits, by name: each may read every secret of the service."""
    found = [one for one in nodes if one.status is NodeStatus.ACTIVE and is_placed_on(policy, one)]
    return tuple(sorted(found, key=lambda one: one.name))


def plan_sealing(
    policies: Iterable[Policy], nodes: Iterable[NodeRecord], listed: Mapping[str, SecretList]
) -> tuple[Sealing, ...]:
    """Return every secret that a policy names, sorted by key. listed: signed lists by `service/name`."""
    records = tuple(nodes)
    found = []
    for policy in policies:
        readers = readers_of(policy, records)
        allowed = {one.node_id for one in readers}
        for name in policy.secrets:
            signed = listed.get(key_of(policy.service, name))
            boxes = signed.boxes if signed is not None else {}
            found.append(
                Sealing(
                    service=policy.service,
                    name=name,
                    version=signed.version if signed is not None else 0,
                    readers=readers,
                    lacking=tuple(one for one in readers if one.node_id not in boxes),
                    surplus=tuple(sorted(set(boxes) - allowed)),
                )
            )
    return tuple(sorted(found, key=lambda one: one.key))
