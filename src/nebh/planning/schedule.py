"""Where allocations go: a pure, deterministic function of policies, nodes and what is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nebh.model.node import NodeRecord, NodeStatus
from nebh.model.policy import Policy, ServiceState
from nebh.model.quantities import render_size
from nebh.model.service import PlacementMode


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """A signed node as the scheduler sees it. lost: silent beyond the grace time. memory_free: bytes that may still
    be promised to instances, None = unknown (then it is no limit)."""

    record: NodeRecord
    lost: bool = False
    memory_free: int | None = None


@dataclass(frozen=True, kw_only=True)
class Placements:
    """replicas: by node id, 0 = the service leaves this node. reasons: one line per node or gap, for people.
    unplaced: allocations that no node could take."""

    replicas: dict[str, int]
    reasons: tuple[str, ...] = ()
    unplaced: int = 0


def schedule_service(
    policy: Policy, *, wanted: int, nodes: tuple[NodeFacts, ...], current: Mapping[str, int]
) -> Placements:
    """Place `wanted` allocations. current: how many run now, by node id.

    What runs stays where it is if it may. New ones go to the node with the fewest of this service, then the most free
    memory, then the first name. A pinned service never moves: a lost node keeps its allocations.
    """
    if policy.state is ServiceState.STOPPED:
        there = {node for node, count in current.items() if count}
        return Placements(replicas=dict.fromkeys(sorted(there), 0), reasons=("the policy says stopped",))
    rooms, reasons = _rooms(policy, nodes, current)
    most = min(wanted, policy.replicas.max)
    if most < wanted:
        reasons.append(f"{wanted} are wanted, the policy allows {most}")
    placed = _keep(policy, rooms, current, most)
    names = {one.record.node_id: one.record.name for one in nodes}
    free = {one.record.node_id: one.memory_free for one in nodes}
    _fill(policy, rooms, placed, most, names=names, free=free)
    unplaced = most - sum(placed.values())
    for node_id in sorted(placed, key=lambda one: names.get(one, one)):
        had, has = current.get(node_id, 0), placed[node_id]
        said = f"keeps {has}" if had == has else f"{had} -> {has}"
        reasons.append(f"{names.get(node_id, node_id)}: {said} ({policy.placement.mode.value})")
    for node_id in sorted(set(current) - set(placed)):
        if current[node_id]:
            placed[node_id] = 0
            reasons.append(f"{names.get(node_id, node_id)}: {current[node_id]} -> 0")
    if unplaced:
        reasons.append(f"{unplaced} could not be placed: no node has room within its bounds")
    return Placements(replicas=dict(sorted(placed.items())), reasons=tuple(reasons), unplaced=unplaced)


def schedule_all(
    policies: Mapping[str, Policy],
    *,
    wanted: Mapping[str, int],
    nodes: tuple[NodeFacts, ...],
    current: Mapping[str, Mapping[str, int]],
) -> dict[str, Placements]:
    """Place every service: pinned ones first, then the largest; each takes its memory from what the next ones see."""
    found: dict[str, Placements] = {}
    left = nodes

    def order(service: str) -> tuple[bool, int, str]:
        policy = policies[service]
        return policy.placement.mode is PlacementMode.SPREAD, -policy.limits.memory, service

    for service in sorted(policies, key=order):
        policy, there = policies[service], current.get(service, {})
        count = wanted.get(service, policy.replicas.count)
        found[service] = schedule_service(policy, wanted=count, nodes=left, current=there)
        left = _charge(left, found[service], there, policy.limits.memory)
    return found


def is_placed_on(policy: Policy, record: NodeRecord) -> bool:
    """Tell whether the policy's placement admits the node (N4)."""
    place = policy.placement
    everywhere = not place.groups and not place.nodes
    return everywhere or record.name in place.nodes or bool(set(record.groups) & set(place.groups))


def _rooms(
    policy: Policy, nodes: tuple[NodeFacts, ...], current: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Return how many allocations each node may hold in all, and why the others may hold none."""
    rooms: dict[str, int] = {}
    reasons: list[str] = []
    pinned = policy.placement.mode is PlacementMode.PINNED
    for node in sorted(nodes, key=lambda one: one.record.name):
        record, had = node.record, current.get(node.record.node_id, 0)
        if record.status is not NodeStatus.ACTIVE:
            reasons.append(f"{record.name}: revoked")
        elif not is_placed_on(policy, record):
            reasons.append(f"{record.name}: not in the placement")
        elif node.lost:
            reasons.append(f"{record.name}: no word from it")
            if pinned and had:
                rooms[record.node_id] = had
        else:
            room = policy.placement.max_per_node
            if node.memory_free is not None:
                fits = had + max(node.memory_free, 0) // max(policy.limits.memory, 1)
                if fits < room:
                    said = f"room for {fits} by memory ({render_size(max(node.memory_free, 0))} free)"
                    reasons.append(f"{record.name}: {said}")
                room = min(room, fits)
            rooms[record.node_id] = room
    return rooms, reasons


def _keep(policy: Policy, rooms: Mapping[str, int], current: Mapping[str, int], most: int) -> dict[str, int]:
    """Return what may stay, at most `most` in all: the fullest nodes give up first."""
    kept = {node: min(count, rooms[node]) for node, count in current.items() if count and node in rooms}
    while sum(kept.values()) > most:
        fullest = max(sorted(kept), key=lambda one: kept[one])
        kept[fullest] -= 1
    return {node: count for node, count in kept.items() if count or policy.placement.mode is PlacementMode.PINNED}


def _fill(
    policy: Policy,
    rooms: Mapping[str, int],
    placed: dict[str, int],
    most: int,
    *,
    names: Mapping[str, str],
    free: Mapping[str, int | None],
) -> None:
    """Add allocations until `most` are placed or no room is left."""

    def left(node: str) -> int:
        had = free[node]
        return 2**62 if had is None else had - policy.limits.memory * placed.get(node, 0)

    while sum(placed.values()) < most:
        open_nodes = [node for node, room in rooms.items() if placed.get(node, 0) < room]
        if not open_nodes:
            return
        best = min(open_nodes, key=lambda one: (placed.get(one, 0), -left(one), names[one]))
        placed[best] = placed.get(best, 0) + 1


def _charge(
    nodes: tuple[NodeFacts, ...], placements: Placements, current: Mapping[str, int], memory: int
) -> tuple[NodeFacts, ...]:
    """Return the nodes with the memory of what was added taken off, and of what left given back."""
    charged = []
    for node in nodes:
        there = current.get(node.record.node_id, 0)
        more = placements.replicas.get(node.record.node_id, there) - there
        free = None if node.memory_free is None else node.memory_free - more * memory
        charged.append(replace(node, memory_free=free))
    return tuple(charged)
