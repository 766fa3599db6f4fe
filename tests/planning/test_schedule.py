"""Placements: within every bound, complete when there is room, without needless moves, and always the same."""

from dataclasses import replace

from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st

from nebh.model.node import Baseline, NodeRecord, NodeStatus
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.service import Limits, Placement, PlacementMode, Replicas
from nebh.planning.schedule import NodeFacts, schedule_all, schedule_service

MIB = 1 << 20


def node(name: str, *groups: str, free: int | None = None, lost: bool = False, revoked: bool = False) -> NodeFacts:
    record = NodeRecord(
        node_id=f"id-{name}",
        name=name,
        groups=groups,
        sign_pk="",
        seal_pk="",
        wg_pk="",
        subnets=(),
        enrolled_at=1,
        baseline=Baseline(snapshot=1),
        status=NodeStatus.REVOKED if revoked else NodeStatus.ACTIVE,
    )
    return NodeFacts(record=record, lost=lost, memory_free=free)


def policy(name: str = "web", *, most: int = 10, memory: int = 64 * MIB, **place: object) -> Policy:
    return Policy(
        cluster_id="c",
        service=name,
        version=1,
        epoch=1,
        signed_at=1,
        state=ServiceState.RUNNING,
        placement=Placement(**place),  # type: ignore[arg-type]
        replicas=Replicas(count=1, min=1, max=most),
        limits=Limits(memory=memory),
        net=NetPolicy(),
    )


THREE = (node("a", "front"), node("b", "front"), node("c", "back"))


def test_one_machine_takes_all() -> None:
    found = schedule_service(policy(), wanted=2, nodes=(node("a"),), current={})
    assert found.replicas == {"id-a": 2}
    assert found.unplaced == 0
    assert found.reasons == ("a: 0 -> 2 (spread)",)


def test_spreading_inside_the_placement() -> None:
    found = schedule_service(policy(groups=("front",)), wanted=4, nodes=THREE, current={})
    assert found.replicas == {"id-a": 2, "id-b": 2}
    assert "c: not in the placement" in found.reasons


def test_what_runs_stays_and_the_fullest_gives_up_first() -> None:
    there = {"id-a": 3, "id-b": 1}
    assert schedule_service(policy(), wanted=5, nodes=THREE, current=there).replicas == {
        "id-a": 3,
        "id-b": 1,
        "id-c": 1,
    }
    assert schedule_service(policy(), wanted=2, nodes=THREE, current=there).replicas == {"id-a": 1, "id-b": 1}


def test_a_lost_node_is_left_by_spread_and_kept_by_pinned() -> None:
    nodes = (node("a", lost=True), node("b"))
    spread = schedule_service(policy(), wanted=1, nodes=nodes, current={"id-a": 1})
    assert spread.replicas == {"id-a": 0, "id-b": 1}
    pinned = schedule_service(policy(mode=PlacementMode.PINNED), wanted=1, nodes=nodes, current={"id-a": 1})
    assert pinned.replicas == {"id-a": 1}


def test_gaps_are_said() -> None:
    nodes = (node("a", free=100 * MIB), node("b", revoked=True))
    found = schedule_service(policy(max_per_node=8), wanted=3, nodes=nodes, current={})
    assert found.replicas == {"id-a": 1}
    assert found.unplaced == 2
    assert "b: revoked" in found.reasons
    assert any("room for 1 by memory (100 MiB free)" in one for one in found.reasons)
    assert any("could not be placed" in one for one in found.reasons)


def test_the_policy_bounds_the_wish() -> None:
    found = schedule_service(policy(most=2), wanted=9, nodes=THREE, current={})
    assert sum(found.replicas.values()) == 2
    assert "9 are wanted, the policy allows 2" in found.reasons


def test_a_stopped_service_leaves_every_node() -> None:
    stopped = replace(policy(), state=ServiceState.STOPPED)
    assert schedule_service(stopped, wanted=2, nodes=THREE, current={"id-b": 2}).replicas == {"id-b": 0}


def test_services_share_memory_pinned_first() -> None:
    nodes = (node("a", free=200 * MIB), node("b", free=100 * MIB))
    policies = {
        "web": policy("web", memory=100 * MIB),
        "db": policy("db", memory=150 * MIB, mode=PlacementMode.PINNED),
    }
    found = schedule_all(policies, wanted={"web": 2, "db": 1}, nodes=nodes, current={})
    assert found["db"].replicas == {"id-a": 1}
    assert found["web"].replicas == {"id-b": 1}
    assert found["web"].unplaced == 1


@options(max_examples=300, deadline=None)
@given(
    wanted=st.integers(0, 12),
    most=st.integers(1, 12),
    per_node=st.integers(1, 4),
    free=st.lists(st.one_of(st.none(), st.integers(0, 400)), min_size=1, max_size=5),
    lost=st.sets(st.integers(0, 4)),
    running=st.lists(st.integers(0, 4), min_size=5, max_size=5),
)
def test_safe_and_live(
    wanted: int, most: int, per_node: int, free: list[int | None], lost: set[int], running: list[int]
) -> None:
    nodes = tuple(node(f"n{i}", free=None if one is None else one * MIB, lost=i in lost) for i, one in enumerate(free))
    current = {f"id-n{i}": count for i, count in enumerate(running[: len(nodes)]) if count}
    rules = policy(most=most, max_per_node=per_node, memory=100 * MIB)
    found = schedule_service(rules, wanted=wanted, nodes=nodes, current=current)
    again = schedule_service(rules, wanted=wanted, nodes=tuple(reversed(nodes)), current=current)
    assert found.replicas == again.replicas, "the order of nodes does not matter"
    total = sum(found.replicas.values())
    assert total <= min(wanted, most)
    assert found.unplaced == min(wanted, most) - total
    for i, one in enumerate(free):
        has, had = found.replicas.get(f"id-n{i}", 0), current.get(f"id-n{i}", 0)
        assert has <= per_node
        assert has == 0 or i not in lost
        assert one is None or has - had <= one // 100, "memory is not promised twice"
        if found.unplaced and i not in lost:
            assert has == per_node or (one is not None and has - had >= one // 100), "no room is left unused"
    settled = schedule_service(rules, wanted=total, nodes=nodes, current={k: v for k, v in found.replicas.items() if v})
    assert found.unplaced or all(settled.replicas.get(k, 0) == v for k, v in found.replicas.items() if v)
