"""The rollback window: how far back a node may still go, computed from its own commits, never stored (N5)."""

from __future__ import annotations

from collections.abc import Iterable

from nebh.model.policy import Policy
from nebh.model.trust import AcceptedRelease, AcceptedState


def latest_time(accepted: AcceptedState, now: int) -> int:
    """Return `now` (Unix ms), or what the node knows to be later: a clock set back must not open a closed window."""
    commits = max((one.committed_at for one in accepted.releases), default=0)
    return max(now, accepted.newest_signed_at * 1000, commits)


def window_end(release: AcceptedRelease, *, rollback_window: int) -> int:
    """Return until when (Unix ms) one may still go behind a committed release. `rollback_until` only shortens it."""
    end = release.committed_at + rollback_window
    return min(end, release.rollback_until * 1000) if release.rollback_until else end


def find_floor(releases: Iterable[AcceptedRelease], *, service: str, epoch: int, rollback_window: int, now: int) -> int:
    """Return the newest counter committed here whose window has passed; 0 = none. now: Unix ms."""
    return max(
        (
            one.counter
            for one in releases
            if (one.service, one.epoch) == (service, epoch)
            and one.committed_at
            and window_end(one, rollback_window=rollback_window) <= now
        ),
        default=0,
    )


def floor_of(policy: Policy, accepted: AcceptedState, *, now: int) -> int:
    """Return the lowest counter that may be chosen unless it is pinned. now: Unix ms."""
    passed = find_floor(
        accepted.releases,
        service=policy.service,
        epoch=policy.epoch,
        rollback_window=policy.rollback_window,
        now=latest_time(accepted, now),
    )
    return max(policy.min_release, passed)


def is_in_window(counter: int, *, policy: Policy, accepted: AcceptedState, now: int) -> bool:
    """Tell whether N5 lets `counter` of the policy's epoch be chosen. now: Unix ms."""
    return counter in policy.pins or counter >= floor_of(policy, accepted, now=now)


def rollback_targets(policy: Policy, accepted: AcceptedState, *, running: int, now: int) -> tuple[int, ...]:
    """Return the counters committed here before `running` that one may go back to now, newest first. now: Unix ms."""
    known = {
        one.counter
        for one in accepted.releases
        if (one.service, one.epoch) == (policy.service, policy.epoch) and one.committed_at
    }
    return tuple(
        counter
        for counter in sorted(known, reverse=True)
        if counter < running and is_in_window(counter, policy=policy, accepted=accepted, now=now)
    )
