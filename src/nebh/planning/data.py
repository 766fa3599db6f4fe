"""What a transaction may do with data: who writes it, which release may read it, which snapshots stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from nebh.model.kept import SnapshotKind, SnapshotRow, VolumeRow
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.volume import EXCLUSIVE, SNAPSHOTTED, OnFailureData, VolumeBound, VolumeClass, VolumeMount


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A volume of a release within its policy: the operator's bound and the release's place for it."""

    bound: VolumeBound
    mount: VolumeMount

    @property
    def exclusive(self) -> bool:
        """Whether it has one writer at a time."""
        return self.bound.kind in EXCLUSIVE

    @property
    def stays(self) -> bool:
        """Whether it stays as it is when a release goes back after its cut-over."""
        return self.bound.kind is VolumeClass.SHARED_STATE

    @property
    def snapshotted(self) -> bool:
        """Whether every update takes a snapshot of it."""
        return self.bound.kind in SNAPSHOTTED


def mounted(policy: Policy, release: Release) -> tuple[Mounted, ...]:
    """Return the release's volumes that its policy knows: the intersection is what runs."""
    bounds = {one.name: one for one in policy.volumes}
    return tuple(Mounted(bound=bounds[one.name], mount=one) for one in release.volumes if one.name in bounds)


def unknown_volumes(policy: Policy, release: Release) -> tuple[str, ...]:
    """Return names of volumes that the release wants and the policy does not know."""
    return tuple(one.name for one in release.volumes if one.name not in {bound.name for bound in policy.volumes})


def owns_data(policy: Policy, release: Release) -> bool:
    """Tell whether old and new must not run side by side."""
    return any(one.exclusive for one in mounted(policy, release))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a release may run on data as it is, and why not."""

    ok: bool
    reason: str = ""
    hint: str = ""


def may_read(release: Release, version: int) -> Fit:
    """Tell whether a release may run on data of `version` (0 = there is none yet, or nobody said)."""
    if not version or version in release.data.reads:
        return Fit(ok=True)
    reads = ", ".join(map(str, release.data.reads)) or "none"
    return Fit(
        ok=False,
        reason=f"the data has version {version}, and release {release.counter} of {release.service} reads: {reads}",
        hint=f"`nebh rollback {release.service} --to {release.counter} --data restore` brings the data that it last had"
        " (an operator's order), or deploy a release that reads this version",
    )


class DataChoice(StrEnum):
    """What an automatic rollback does with the data."""

    NONE = "none"
    KEEP = "keep"
    HOLD = "hold"
    RESTORE = "restore"


def choose_on_failure(
    wish: OnFailureData,
    *,
    old: Release | None,
    versions: Iterable[int],
    staying: Iterable[int] = (),
    cutover: bool,
) -> DataChoice:
    """Decide for a release that failed. Before the cut-over no client has written: the snapshot always comes back.

    versions: of the data now; staying: of that part of it that no rollback touches. old: the release that one goes back
    to, None = there is none. An old release never runs on data that it does not read: then it is HOLD.
    """
    if not cutover:
        return DataChoice.RESTORE
    match wish:
        case OnFailureData.HOLD:
            return DataChoice.HOLD
        case OnFailureData.RESTORE:
            choice, found = DataChoice.RESTORE, staying
        case OnFailureData.KEEP | OnFailureData.AUTO:
            choice, found = DataChoice.KEEP, versions
    return choice if old is None or all(may_read(old, one).ok for one in found) else DataChoice.HOLD


def droppable(rows: Iterable[SnapshotRow], *, keep: int, now: int, needed: frozenset[str]) -> tuple[SnapshotRow, ...]:
    """Return the snapshots of one volume that may go, oldest first. now: Unix ms; needed: names that an open
    transaction may still restore. The newest of the releases' snapshots, the last good one, stays whatever `keep` says."""
    found = sorted(rows, key=lambda one: (one.taken_at, one.name))
    of_releases = [one for one in found if one.kind is SnapshotKind.RELEASE]
    old = of_releases[: max(0, len(of_releases) - max(1, keep))]
    spent = [one for one in found if one.kind in (SnapshotKind.DISCARDED, SnapshotKind.FETCHED) and one.until <= now]
    return tuple(one for one in found if (one in old or one in spent) and one.name not in needed)


def may_snapshot(policy: Policy | None, volume: VolumeRow) -> Fit:
    """Tell whether a person's snapshot of a volume makes sense. policy: None = the service was removed, its data stays."""
    kind = next((one.kind for one in policy.volumes if one.name == volume.name), None) if policy is not None else None
    if kind is not None and kind not in SNAPSHOTTED:
        return Fit(ok=False, reason=f"{volume.name} is of class {kind.value}, which has no snapshots")
    if not volume.counter and not volume.version:
        return Fit(ok=False, reason=f"nobody has written to {volume.name} yet")
    return Fit(ok=True)


def is_last_good(one: SnapshotRow, rows: Iterable[SnapshotRow]) -> bool:
    """Tell whether a snapshot is the newest that an update took of its volume: the way back from the running release."""
    place = (one.service, one.replica, one.volume)
    of_releases = [
        row
        for row in rows
        if row.kind is SnapshotKind.RELEASE and row.whole and (row.service, row.replica, row.volume) == place
    ]
    return bool(of_releases) and max(of_releases, key=lambda row: (row.taken_at, row.name)).name == one.name


def snapshot_to_restore(rows: Iterable[SnapshotRow], *, epoch: int, counter: int) -> SnapshotRow | None:
    """Return the newest snapshot of the data as release `counter` last had it."""
    fitting = [one for one in rows if one.kind is SnapshotKind.RELEASE and (one.epoch, one.counter) == (epoch, counter)]
    return max(fitting, key=lambda one: (one.taken_at, one.name), default=None)
