"""What a rehearsal starts from, whether there is room for it, and when the next one is due."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nebh.model.kept import SnapshotRow
from nebh.model.quantities import render_size
from nebh.model.rehearsal import DAY, RehearsalRule
from nebh.model.release import Release
from nebh.model.trust import Verdict
from nebh.model.volume import VolumeClass
from nebh.planning.data import Mounted, may_read, snapshot_to_restore


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a rehearsal starts from. problem: why it cannot, "" = it can; snapshot: the one that volumes of class state
    come from, "" = the data as it is now; version: of that data, 0 = there is none, or nobody said."""

    problem: str = ""
    hint: str = ""
    snapshot: str = ""
    version: int = 0

    @property
    def said(self) -> str:
        """What it starts from, for people."""
        return f"the data of snapshot {self.snapshot}" if self.snapshot else "the data as it is now"


def choose_start(
    release: Release, *, versions: Iterable[int], staying: Iterable[int], snapshots: Iterable[SnapshotRow]
) -> Start:
    """Say what an update or a rollback to `release` would find: the data as it is now where it reads that, else the data
    that it last had (`nebh rollback --data restore`).

    versions: of the data in volumes with snapshots; staying: of those among them that no rollback touches.
    """
    now = tuple(versions)
    unread = next((fit for fit in (may_read(release, one) for one in now) if not fit.ok), None)
    if unread is None:
        return Start(version=max(now, default=0))
    kept = snapshot_to_restore(snapshots, epoch=release.epoch, counter=release.counter)
    if kept is None:
        return Start(problem=f"{unread.reason}; there is no snapshot of the data that it last had", hint=unread.hint)
    stuck = next((fit for fit in (may_read(release, one) for one in staying) if not fit.ok), None)
    if stuck is not None:
        return Start(problem=f"shared state stays on rollback: {stuck.reason}", hint=stuck.hint)
    return Start(snapshot=kept.name, version=kept.version)


def is_copied(part: Mounted) -> bool:
    """Tell whether a rehearsal gets what is in a volume; of a cache it gets an empty one."""
    return part.bound.kind not in (VolumeClass.CACHE, VolumeClass.TEMP)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes. total: of the machine; promised: the limits of everything that runs; percent: of the machine that may be
    promised."""

    total: int
    promised: int
    percent: int


def admit_memory(memory: Memory, *, needed: int) -> Verdict:
    """Say whether `needed` more bytes may be promised."""
    bound = memory.total * memory.percent // 100
    if memory.promised + needed <= bound:
        return Verdict(ok=True)
    return Verdict(
        ok=False,
        reason=f"it may use {render_size(needed)} of memory, and of {render_size(memory.total)} "
        f"{render_size(memory.promised)} are promised to what runs ({memory.percent} % may be)",
        hint="lower `limits.memory` of services that do not need theirs, or raise `overlap_memory` in node.json",
    )


def slot_of(rule: RehearsalRule, now: int) -> int:
    """Return the begin (Unix ms) of the period that `now` lies in, for a rule with a time of day."""
    begin = rule.at % rule.every if rule.every < DAY else rule.at
    return (now - begin) // rule.every * rule.every + begin


def is_due(rule: RehearsalRule, *, last: int, now: int) -> bool:
    """Tell whether the schedule wants a rehearsal. last: of the schedule, Unix ms."""
    if rule.at < 0:
        return now - last >= rule.every
    return last < slot_of(rule, now)
