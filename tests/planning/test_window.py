"""The rollback window is computed from commits and cannot be opened again."""

from dataclasses import replace

from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.service import Limits, Placement, Replicas
from nebh.model.trust import AcceptedRelease, AcceptedState
from nebh.planning.window import find_floor, is_in_window, latest_time, rollback_targets, window_end

DAY = 86_400_000
NOW = 20_000 * DAY
POLICY = Policy(
    cluster_id="c",
    service="web",
    version=1,
    epoch=2,
    signed_at=1,
    state=ServiceState.RUNNING,
    placement=Placement(),
    replicas=Replicas(),
    limits=Limits(memory=1),
    net=NetPolicy(),
    rollback_window=7 * DAY,
)


def committed(counter: int, days: int, *, epoch: int = 2, until: int = 0) -> AcceptedRelease:
    return AcceptedRelease(
        service="web",
        epoch=epoch,
        counter=counter,
        digest="d",
        accepted_at=1,
        committed_at=NOW - days * DAY,
        rollback_until=until,
    )


STATE = AcceptedState(
    cluster_id="c",
    node_id="n",
    node_name="n",
    releases=(committed(1, 30), committed(2, 8), committed(3, 6), committed(4, 1), committed(9, 300, epoch=1)),
)


def test_the_floor_is_the_newest_commit_whose_window_has_passed() -> None:
    assert find_floor(STATE.releases, service="web", epoch=2, rollback_window=7 * DAY, now=NOW) == 2
    assert find_floor(STATE.releases, service="web", epoch=3, rollback_window=7 * DAY, now=NOW) == 0
    assert find_floor(STATE.releases, service="db", epoch=2, rollback_window=7 * DAY, now=NOW) == 0
    assert find_floor(STATE.releases, service="web", epoch=2, rollback_window=0, now=NOW) == 4


def test_a_release_may_only_shorten_its_window() -> None:
    assert window_end(committed(4, 1, until=(NOW - DAY // 2) // 1000), rollback_window=7 * DAY) == NOW - DAY // 2
    late = committed(4, 1, until=(NOW + 90 * DAY) // 1000)
    assert window_end(late, rollback_window=7 * DAY) == NOW + 6 * DAY


def test_where_one_may_go_back_to() -> None:
    assert rollback_targets(POLICY, STATE, running=4, now=NOW) == (3, 2)
    assert rollback_targets(replace(POLICY, pins=(1,)), STATE, running=4, now=NOW) == (3, 2, 1)
    assert rollback_targets(replace(POLICY, min_release=3), STATE, running=4, now=NOW) == (3,)


def test_time_does_not_run_backwards() -> None:
    state = replace(STATE, newest_signed_at=(NOW + DAY) // 1000)
    assert latest_time(state, 5) == NOW + DAY
    assert latest_time(STATE, 5) == NOW - DAY
    assert not is_in_window(1, policy=POLICY, accepted=STATE, now=5)
