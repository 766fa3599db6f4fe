"""Volumes as folders in a folder, without any care (contract: base.VolumeDriver): they can fail, hang and lie."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nebh.drivers.volumes import browse
from nebh.host.trees import copy_tree, measure
from nebh.model.errors import Conflict, NebhError, NotFound
from nebh.model.stored import (
    Ability,
    StorageRoom,
    StoredChange,
    StoredFile,
    StoredSnapshot,
    StoredVolume,
    VolumePlan,
    VolumeUsage,
    check_stored_name,
)


@dataclass(kw_only=True)
class _Volume:
    plan: VolumePlan
    data: Path
    snapshots: dict[str, tuple[StoredSnapshot, Path]] = field(default_factory=dict)
    restored: str = ""
    cloned: str = ""


class FakeVolumes:
    """See above. Orders from a test: `fail_next`, `hang_next`, `lie` (verbs that report success and change nothing);
    `calls` is what happened. A new object knows nothing of what an older one kept."""

    abilities = frozenset({Ability.BROWSE, Ability.CLONE, Ability.RESIZE})

    def __init__(self, folder: Path) -> None:
        self.calls: list[tuple[str, str]] = []
        self.lie: set[str] = set()
        self.shared = StorageRoom(size=1 << 30, free=1 << 30)
        self._folder = folder
        self._numbers = itertools.count()
        self._volumes: dict[str, _Volume] = {}
        self._errors: dict[str, list[NebhError]] = {}
        self._gates: dict[str, list[threading.Event]] = {}

    def fail_next(self, verb: str, error: NebhError) -> None:
        """Have the next call of `verb` (`snapshot`, `restore`...) raise `error`."""
        self._errors.setdefault(verb, []).append(error)

    def hang_next(self, verb: str) -> threading.Event:
        """Have the next call of `verb` wait until the returned event is set."""
        gate = threading.Event()
        self._gates.setdefault(verb, []).append(gate)
        return gate

    def _enter(self, verb: str, volume: str = "") -> bool:
        """Tell whether the verb is to be done."""
        self.calls.append((verb, volume))
        if self._gates.get(verb):
            self._gates[verb].pop(0).wait()
        if self._errors.get(verb):
            raise self._errors[verb].pop(0)
        return verb not in self.lie

    def open(self) -> None:
        """As promised by the contract."""
        if self._enter("open"):
            self._folder.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """As promised by the contract."""
        self._enter("check")

    def upkeep(self) -> None:
        """As promised by the contract."""
        self._enter("upkeep")

    def make(self, plan: VolumePlan) -> Path:
        """As promised by the contract; the owner stays this process's."""
        check_stored_name(plan.name, what="volume")
        if self._enter("make", plan.name):
            if plan.name in self._volumes:
                self._volumes[plan.name].plan = replace(self._volumes[plan.name].plan, quota=plan.quota)
            else:
                data = self._new()
                data.mkdir(mode=0o700)
                self._volumes[plan.name] = _Volume(plan=plan, data=data)
        return self.path(plan.name)

    def remove(self, volume: str) -> None:
        """As promised by the contract."""
        check_stored_name(volume, what="volume")
        if self._enter("remove", volume) and (one := self._volumes.pop(volume, None)) is not None:
            for data in (one.data, *(data for _, data in one.snapshots.values())):
                shutil.rmtree(data)

    def path(self, volume: str) -> Path:
        """As promised by the contract."""
        return self._find(volume).data

    def snapshot_path(self, volume: str, snapshot: str) -> Path:
        """As promised by the contract."""
        found = self._find(volume).snapshots.get(check_stored_name(snapshot, what="snapshot"))
        if found is None:
            raise NotFound(f"volume {volume} has no snapshot {snapshot}")
        return found[1]

    def snapshot(self, volume: str, snapshot: str) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        one = self._find(volume)
        if self._enter("snapshot", volume) and snapshot not in one.snapshots:
            one.snapshots[snapshot] = (self._state(snapshot), self._copy(one.data))

    def receive(self, volume: str, snapshot: str, fill: Callable[[Path], None]) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        one = self._find(volume)
        if self._enter("receive", volume) and snapshot not in one.snapshots:
            made = self._new()
            fill(made)
            one.snapshots[snapshot] = (self._state(snapshot), made)

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        check_stored_name(volume, what="volume")
        one = self._volumes.get(volume)
        if self._enter("delete_snapshot", volume) and one is not None and snapshot in one.snapshots:
            shutil.rmtree(one.snapshots.pop(snapshot)[1])

    def restore(self, volume: str, snapshot: str, *, keep_as: str) -> None:
        """As promised by the contract."""
        check_stored_name(keep_as, what="snapshot")
        check_stored_name(snapshot, what="snapshot")
        one = self._find(volume)
        if not self._enter("restore", volume) or one.restored == keep_as:
            return
        if keep_as in one.snapshots:
            raise Conflict(f"cannot restore volume {volume}: there is a snapshot {keep_as} already")
        fresh = self._copy(self.snapshot_path(volume, snapshot))
        one.snapshots[keep_as] = (replace(self._state(keep_as), discarded=True), one.data)
        one.data, one.restored = fresh, keep_as

    def list(self) -> tuple[StoredVolume, ...]:
        """As promised by the contract."""
        self._enter("list")
        return tuple(
            StoredVolume(name=name, quota=one.plan.quota, snapshots=tuple(found for found, _ in one.snapshots.values()))
            for name, one in sorted(self._volumes.items())
        )

    def clone(self, volume: str, *, snapshot: str = "", to: VolumePlan) -> Path:
        """As promised by the contract."""
        check_stored_name(to.name, what="volume")
        source, origin = self._content(volume, snapshot), f"{volume}@{snapshot}"
        if self._enter("clone", volume):
            if to.name not in self._volumes:
                self._volumes[to.name] = _Volume(plan=to, data=self._copy(source), cloned=origin)
            elif self._volumes[to.name].cloned != origin:
                raise Conflict(f"cannot clone volume {volume} to {to.name}: there is a volume of that name")
        return self.path(to.name)

    def usage(self, volume: str) -> VolumeUsage:
        """As promised by the contract."""
        one = self._find(volume)
        self._enter("usage", volume)
        return VolumeUsage(used=measure(one.data), quota=one.plan.quota)

    def room(self) -> StorageRoom:
        """Return what a test has set."""
        self._enter("room")
        return self.shared

    def resize(self, volume: str, quota: int) -> None:
        """As promised by the contract; nothing is refused."""
        one = self._find(volume)
        if self._enter("resize", volume):
            one.plan = replace(one.plan, quota=quota)

    def files(self, volume: str, *, snapshot: str = "", limit: int = 10_000) -> tuple[StoredFile, ...]:
        """As promised by the contract."""
        self._enter("files", volume)
        return browse.list_files(self._content(volume, snapshot), limit=limit)

    def diff(
        self, volume: str, *, older: str, newer: str = "", limit: int = 10_000, contents: bool = False
    ) -> tuple[StoredChange, ...]:
        """As promised by the contract."""
        self._enter("diff", volume)
        before, after = self._content(volume, older), self._content(volume, newer)
        return browse.compare(before, after, limit=limit, contents=contents)

    def _content(self, volume: str, snapshot: str) -> Path:
        return self.snapshot_path(volume, snapshot) if snapshot else self.path(volume)

    def _find(self, volume: str) -> _Volume:
        one = self._volumes.get(check_stored_name(volume, what="volume"))
        if one is None:
            raise NotFound(f"there is no volume {volume} on this node")
        return one

    def _state(self, name: str) -> StoredSnapshot:
        return StoredSnapshot(name=name, taken_at=1 + next(self._numbers))

    def _new(self) -> Path:
        return self._folder / str(next(self._numbers))

    def _copy(self, data: Path) -> Path:
        made = self._new()
        copy_tree(data, made, clone=False)
        return made
