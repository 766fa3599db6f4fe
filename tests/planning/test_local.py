"""Who comes, who stays, who goes; how to go on after a crash: properties over whatever a journal may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.transaction import ENDED, LEGAL, State
from nebh.model.work import InstanceRow, Role, TransactionRow
from nebh.planning.local import (
    ENDING,
    Recovery,
    boot_order,
    kind_of,
    plan_sides,
    recover,
    roles_after_cutover,
    roles_after_rollback,
    slot_for,
)


def row(number: int, *, replica: int = 0, counter: int = 1, slot: int = 0, role: Role = Role.SERVING) -> InstanceRow:
    return InstanceRow(
        id=f"web-{counter}-{replica}-{number}",
        service="web",
        epoch=1,
        counter=counter,
        replica=replica,
        attempt=number,
        address=2048 + number,
        slot=slot,
        role=role,
        txn=1,
        created_at=1,
    )


@st.composite
def journals(draw) -> tuple[InstanceRow, ...]:
    """Serving replicas 0..n-1 of one release, and leaving ones of others; slots all different."""
    serving = draw(st.integers(0, 4))
    leaving = draw(st.lists(st.integers(0, 4), max_size=4))
    slots = draw(st.permutations(range(12)))
    rows = [row(n, replica=n, counter=5, slot=slots[n]) for n in range(serving)]
    rows += [
        row(10 + n, replica=replica, counter=4, slot=slots[4 + n], role=Role.LEAVING)
        for n, replica in enumerate(leaving)
    ]
    return tuple(rows)


KINDS = st.sampled_from(["deploy", "restart", "scale", "stop", "remove"])


@given(instances=journals(), kind=KINDS, counter=st.sampled_from([5, 6]), replicas=st.integers(1, 6))
def test_sides_are_whole(instances, kind, counter, replicas):
    sides = plan_sides(kind=kind, epoch=1, to_counter=counter, replicas=replicas, instances=instances)
    serving = {one.id for one in instances if one.role is Role.SERVING}
    assert {one.id for one in sides.keep} | {one.id for one in sides.old} == serving
    assert not {one.id for one in sides.keep} & {one.id for one in sides.old}
    after = sorted([one.replica for one in sides.keep] + [replica for replica, _ in sides.new])
    assert after == ([] if kind in ENDING else list(range(replicas))), "each replica once"
    taken = {one.slot for one in instances}
    new_slots = [slot for _, slot in sides.new]
    assert len(set(new_slots)) == len(new_slots)
    assert not taken & set(new_slots), "no slot has two owners"
    assert all(one.counter == counter for one in sides.keep), "what stays is the release that is asked for"
    if kind in ("deploy", "restart"):
        assert not sides.keep


@given(replica=st.integers(0, 20), taken=st.frozensets(st.integers(0, 60)))
def test_slots_are_free(replica, taken):
    slot = slot_for(replica=replica, taken=taken)
    assert slot not in taken
    if not {2 * replica, 2 * replica + 1} <= taken:
        assert slot in (2 * replica, 2 * replica + 1)


def test_two_slots_are_used_in_turn():
    assert [slot_for(replica=1, taken=frozenset(taken)) for taken in ((), (2,), (3,), (2, 3))] == [2, 3, 2, 4]


@given(instances=journals(), replicas=st.integers(1, 5))
def test_a_rollback_undoes_the_roles_of_a_cut_over(instances, replicas):
    sides = plan_sides(kind="deploy", epoch=1, to_counter=6, replicas=replicas, instances=instances)
    new = tuple(row(50 + n, replica=r, counter=6, slot=s, role=Role.NEW) for n, (r, s) in enumerate(sides.new))
    over = roles_after_cutover(sides, new)
    back = roles_after_rollback(new, sides.old)
    assert over.keys() == back.keys()
    assert {name for name, role in over.items() if role is Role.SERVING} == {one.id for one in new}
    assert {name for name, role in back.items() if role is Role.SERVING} == {one.id for one in sides.old}
    assert {back[one.id] for one in new} <= {Role.LEAVING}


# recovery: the table of the architecture, as written there

TABLE = {
    (State.ASSIGNED, False): Recovery.PREPARE_AGAIN,
    (State.PREPARING, False): Recovery.PREPARE_AGAIN,
    (State.PREPARED, False): Recovery.PREPARE_AGAIN,
    (State.STARTING, False): Recovery.BACK,
    (State.CUTTING_OVER, False): Recovery.BACK,
    (State.CUTTING_OVER, True): Recovery.FORWARD,
    (State.CHECKING, True): Recovery.FORWARD,
    (State.HEALTHY, True): Recovery.FORWARD,
    (State.ROLLING_BACK, False): Recovery.FINISH_ROLLBACK,
    (State.ROLLING_BACK, True): Recovery.FINISH_ROLLBACK,
    **{(state, cutover): Recovery.NOTHING for state in State if state in ENDED for cutover in (False, True)},
}


def found(state: State, cutover: bool) -> TransactionRow:
    return TransactionRow(
        id=1,
        service="web",
        kind="deploy",
        state=state,
        epoch=1,
        from_counter=1,
        to_counter=2,
        replicas=1,
        nonce="n",
        phase="run",
        cutover=cutover,
        attempt=1,
        created_at=1,
        changed_at=1,
    )


@pytest.mark.parametrize(("state", "cutover"), TABLE)
def test_recovery_is_the_table(state, cutover):
    assert recover(found(state, cutover)) is TABLE[state, cutover]


def test_every_state_has_a_row():
    assert {state for state, _ in TABLE} == set(State)


def test_every_decision_leads_on_legally():
    for (state, _), decision in TABLE.items():
        if decision is Recovery.PREPARE_AGAIN and state is State.PREPARED:
            assert State.PREPARING in LEGAL[state]
        if decision is Recovery.BACK:
            assert State.ROLLING_BACK in LEGAL[state]


# what an assignment asks for


@given(
    phase=st.sampled_from(["prepare", "run", "restart", "withdraw"]),
    counter=st.integers(1, 3),
    replicas=st.integers(1, 3),
    committed=st.tuples(st.just(1), st.integers(0, 3)),
    running=st.integers(0, 3),
)
def test_kinds(phase, counter, replicas, committed, running):
    kind = kind_of(phase=phase, epoch=1, counter=counter, replicas=replicas, committed=committed, now_running=running)
    if phase == "withdraw":
        assert kind == ("stop" if running else "none")
    elif phase == "restart":
        assert kind == "restart"
    elif (1, counter) == committed and running:
        assert kind == ("none" if running == replicas else "scale")
    else:
        assert kind == "deploy"


# starting after a reboot


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefg"), max_size=4).map(tuple), max_size=6)
)
def test_boot_order_holds_everything_once_and_needs_first(needs):
    levels = boot_order(needs)
    names = [name for level in levels for name in level]
    assert sorted(names) == sorted(needs)
    place = {name: number for number, level in enumerate(levels) for name in level}
    for name, wanted in needs.items():
        for other in wanted:
            if other in place and other != name:
                in_a_ring = place[other] == place[name]
                assert place[other] < place[name] or in_a_ring


def test_boot_order_of_a_chain_and_a_ring():
    chain = {"web": ("api",), "api": ("db",), "db": ()}
    assert boot_order(chain) == (frozenset({"db"}), frozenset({"api"}), frozenset({"web"}))
    assert boot_order({"a": ("b",), "b": ("a",), "c": ()}) == (frozenset({"c"}), frozenset({"a", "b"}))
    assert boot_order({"a": ("a",), "b": ("missing",)}) == (frozenset({"a", "b"}),)
