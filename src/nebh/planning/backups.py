"""When a backup is due, what it holds, and whether an order may have one restored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from nebh.model.backup import BackupRow, BackupRule
from nebh.model.policy import Policy
from nebh.model.volume import EXCLUSIVE

FIRST_RETRY, MOST_RETRY = 60_000, 3_600_000
_SPREAD, _MOST_SPREAD = 10, 600_000


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A backup that was tried. begun_at, ended_at: Unix ms."""

    begun_at: int
    ended_at: int
    failed: bool


def run_name(now: int) -> str:
    """Return the name of a backup begun at `now` (Unix ms), in UTC: `20261121-213045-123`."""
    return f"{datetime.fromtimestamp(now // 1000, UTC):%Y%m%d-%H%M%S}-{now % 1000:03d}"


def part_of(service: str, source: str) -> str:
    """Return the part of a store that the node named `source`, and nobody else, writes for a service."""
    return f"{service}/{source}"


def chosen(policy: Policy, rule: BackupRule) -> frozenset[str]:
    """Return the names of the volumes that are copied."""
    lasting = {one.name for one in policy.volumes if one.kind in EXCLUSIVE}
    return frozenset(lasting & set(rule.volumes) if rule.volumes else lasting)


def spread(node_id: str, service: str, *, every: int) -> int:
    """Return the ms by which this node is late on purpose: many must not come to a store at once."""
    number = int.from_bytes(hashlib.sha256(f"{node_id}/{service}".encode()).digest()[:8])
    return number % max(1, min(every // _SPREAD, _MOST_SPREAD))


def due_at(rule: BackupRule, ended: Sequence[Ended], *, since: int, late: int) -> int:
    """Return when the next backup is due, Unix ms. ended: newest first; since: when there was first something to copy;
    late: see `spread`. What was missed is due at once; what failed is tried again, less and less often."""
    if not ended:
        return since + late
    failures = next((number for number, one in enumerate(ended) if not one.failed), len(ended))
    if not failures:
        return ended[0].begun_at + rule.every + late
    return ended[0].ended_at + min(FIRST_RETRY << min(failures - 1, 20), MOST_RETRY, rule.every)


def is_old(rule: BackupRule, *, newest: int, since: int, now: int) -> bool:
    """Tell whether the newest backup (taken at `newest`, 0 = there is none) is older than two of them should be."""
    return now - (newest or since) > 2 * rule.every + _MOST_SPREAD


def find_lie(wanted: BackupRow, written: Iterable[BackupRow]) -> str:
    """Return how an order's backup differs from what this node wrote down, "" = it does not. written: of its service."""
    place = (wanted.source, wanted.run, wanted.replica, wanted.volume)
    what = f"backup {wanted.run} of volume {wanted.volume}"
    for one in written:
        same_place = place == (one.source, one.run, one.replica, one.volume)
        if not same_place and one.id != wanted.id:
            continue
        if replace(one, listed=wanted.listed) != wanted:
            return (
                f"{what} is {wanted.id[:12]} with the content {wanted.digest[:12]} in the order; this node wrote down"
                f" {one.id[:12]} with {one.digest[:12]} for backup {one.run}"
            )
        return ""
    return "" if wanted.listed else f"{what} was never written down here"


def newest_run(rows: Iterable[BackupRow], *, run: str = "") -> tuple[BackupRow, ...]:
    """Return all volumes of one backup, the newest that a node wrote down when it made it (`run` "") or one named by its
    name or the beginning of an id; () = there is none."""
    found = tuple(rows)
    if run:
        named = [one for one in found if one.run == run or (len(run) >= 8 and one.id.startswith(run))]
    else:
        named = [one for one in found if not one.listed]
    if not named:
        return ()
    last = max(named, key=lambda one: (one.taken_at, one.run))
    whole = tuple(one for one in found if (one.source, one.run) == (last.source, last.run))
    return tuple(sorted(whole, key=lambda one: (one.replica, one.volume)))
