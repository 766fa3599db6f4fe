"""The transaction's states are data: they lead to an end, and nothing leads out of an end."""

from itertools import pairwise

import pytest

from nebh.model.network import (
    FIRST_ENDPOINT,
    FIRST_INSTANCE,
    LAST_INSTANCE,
    Backend,
    addresses,
    link_plan,
)
from nebh.model.transaction import ENDED, LEGAL, State, is_legal


def test_every_state_is_declared_and_reachable() -> None:
    assert set(LEGAL) == set(State)
    reached, frontier = {State.ASSIGNED}, [State.ASSIGNED]
    while frontier:
        for after in LEGAL[frontier.pop()]:
            if after not in reached:
                reached.add(after)
                frontier.append(after)
    assert reached == set(State)


def test_ends() -> None:
    assert {one.value for one in ENDED} == {"COMMITTED", "ROLLED_BACK", "REFUSED", "DROPPED"}
    for state in State:
        seen, frontier = set(), [state]
        while frontier:
            one = frontier.pop()
            seen.add(one)
            frontier += [after for after in LEGAL[one] if after not in seen]
        assert seen & ENDED, f"{state} never ends"


def test_the_normal_way_and_what_is_never_allowed() -> None:
    way = ["ASSIGNED", "PREPARING", "PREPARED", "STARTING", "CUTTING_OVER", "CHECKING", "HEALTHY", "COMMITTED"]
    for before, after in pairwise(way):
        assert is_legal(State(before), State(after))
    for serving in (State.STARTING, State.CUTTING_OVER, State.CHECKING, State.HEALTHY):
        assert is_legal(serving, State.ROLLING_BACK)
        assert not is_legal(serving, State.DROPPED), "what may have served is rolled back, not dropped"
    assert not is_legal(State.CHECKING, State.COMMITTED)
    assert not is_legal(State.PREPARED, State.CUTTING_OVER)


@pytest.mark.parametrize("index", [1, FIRST_ENDPOINT, FIRST_INSTANCE, LAST_INSTANCE])
def test_addresses_and_link_names(index: int) -> None:
    subnets = ("10.77.16.0/20", "fd00:1::/64")
    pair = addresses(subnets, index)
    link = link_plan(subnets, index)
    assert link.pair == pair
    assert pair.v4.startswith("10.77.")
    assert pair.v6.startswith("fd00:1::")
    assert len(link.name) <= 15
    assert link.name.startswith("nebh")


def test_address_numbers_fit_their_subnet_and_do_not_overlap() -> None:
    assert FIRST_ENDPOINT < FIRST_INSTANCE <= LAST_INSTANCE < 4096 - 1
    assert Backend(service="web", port=80, routes=()).key == "web:80"
