"""Volumes as folders of one file system: where everything lies, and how a restore becomes one step.

    ROOT/VOLUME/live/data       what containers are given
    ROOT/VOLUME/kept/SNAP/data  a snapshot
    ROOT/VOLUME/making/NAME     a restore under way, named by what it will keep
    ROOT/.making/VOLUME         a volume under way
    ROOT/.gone/...              on its way out

Around every `data` lies a folder that carries a record (an extended attribute), out of reach of containers. A restore
lets `live` and `making/NAME` change places. The record travels along: a `live` that says it was restored under NAME
tells that `making/NAME` holds the old content and only has to be kept; without that word it is a leftover.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from nebh.drivers.volumes import browse
from nebh.drivers.volumes.base import telling
from nebh.host import faults
from nebh.host.disk import exchange_names, room_of
from nebh.host.files import fsync_directory
from nebh.host.trees import fill_top
from nebh.model.errors import Broken, Conflict, Failed, NotFound
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

_RECORD = "user.nebh"
_TRAVERSE, _CLOSED = 0o711, 0o700


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a content. restored: the name under which what was here before is kept; cloned: VOLUME@SNAPSHOT
    it began as."""

    quota: int = 0
    taken_at: int = 0
    discarded: bool = False
    restored: str = ""
    cloned: str = ""


class Keeper(Protocol):
    """What differs between file systems. `wrap` is the folder around a `data`. All raise OSError or NebhError."""

    abilities: frozenset[Ability]

    def open(self, root: Path) -> None:
        """Make `root` usable."""
        ...

    def check(self, root: Path) -> None:
        """As VolumeDriver.check."""
        ...

    def upkeep(self, root: Path) -> None:
        """As VolumeDriver.upkeep."""
        ...

    def make(self, wrap: Path) -> None:
        """Make an empty `data`."""
        ...

    def duplicate(self, source: Path, wrap: Path, *, quota: int, sealed: bool) -> None:
        """Make `wrap/data` a copy of the folder `source`, appearing in one step, on the disk on return together with
        the record of `wrap`. sealed: nothing will be written to it; else it gets the quota."""
        ...

    def seal(self, wrap: Path) -> None:
        """Nothing will be written to it any more."""
        ...

    def limit(self, wrap: Path, quota: int) -> None:
        """Set the quota of its `data`, 0 = none."""
        ...

    def discard(self, wrap: Path) -> None:
        """Remove `wrap` and all in it."""
        ...

    def settle(self, *folders: Path) -> None:
        """Bring the names in these folders to the disk."""
        ...

    def growth(self) -> int:
        """Return the bytes by which the storage may still grow by itself."""
        ...

    def usage(self, wrap: Path, kept: dict[str, Path], *, quota: int) -> VolumeUsage:
        """As VolumeDriver.usage; kept: snapshots and their wraps."""
        ...


class FolderVolumes:
    """Contract: base.VolumeDriver. root: a folder of ours alone, made when it is not there."""

    def __init__(self, root: Path, keeper: Keeper) -> None:
        self._root = root
        self._keeper = keeper
        self._locks: dict[str, threading.RLock] = {}
        self._locking = threading.Lock()

    @property
    def abilities(self) -> frozenset[Ability]:
        """As promised by the contract."""
        return self._keeper.abilities | {Ability.BROWSE, Ability.CLONE, Ability.RESIZE}

    def open(self) -> None:
        """As promised by the contract."""
        with telling("open the storage of volumes"):
            self._keeper.open(self._root)
            self._root.mkdir(mode=_TRAVERSE, parents=True, exist_ok=True)
            self._root.chmod(_TRAVERSE)
            for name in (".making", ".gone"):
                (self._root / name).mkdir(mode=_CLOSED, exist_ok=True)
            self._try_exchange()
            for half in tuple((self._root / ".making").iterdir()):
                self._put_away(half)
            for name in self._names():
                self._finish(self._root / name, drop=self._put_away)

    def _try_exchange(self) -> None:
        """Find out at once whether this file system can do the one step that a restore consists of."""
        pair = [self._root / ".making" / f".{number}" for number in (1, 2)]
        for one in pair:
            one.mkdir(exist_ok=True)
            os.setxattr(one, _RECORD, b"{}")
        try:
            exchange_names(*pair)
        except OSError as error:
            raise Failed(
                f"cannot keep volumes in {self._root}: its file system cannot exchange two names",
                hint="put it on ext4, XFS or btrfs",
            ) from error
        for one in pair:
            one.rmdir()

    def check(self) -> None:
        """As promised by the contract."""
        with telling("use the storage of volumes"):
            self._keeper.check(self._root)
            (self._root / ".gone").stat()

    def upkeep(self) -> None:
        """As promised by the contract."""
        with telling("keep the storage of volumes in order"):
            self._keeper.upkeep(self._root)
            for wrap in tuple((self._root / ".gone").iterdir()):
                self._purge(wrap)

    # volumes

    def make(self, plan: VolumePlan) -> Path:
        """As promised by the contract."""
        with self._changing(plan.name, f"make volume {plan.name}") as home:
            if (home / "live").is_dir():
                self._resize(home, plan.quota)
                return home / "live" / "data"
            stage = self._begin_volume(plan)
            self._keeper.make(stage / "live")
            self._keeper.limit(stage / "live", plan.quota)
            data = stage / "live" / "data"
            os.chown(data, plan.uid, plan.gid)
            data.chmod(_CLOSED)
            self._name_volume(stage, home, Record(quota=plan.quota), point="volume.make.staged")
        return home / "live" / "data"

    def _begin_volume(self, plan: VolumePlan) -> Path:
        stage = self._root / ".making" / plan.name
        if stage.exists():
            self._throw(stage)
        for folder, mode in ((stage, _TRAVERSE), (stage / "live", _TRAVERSE), (stage / "kept", _CLOSED)):
            folder.mkdir(mode=mode)
            folder.chmod(mode)
        (stage / "making").mkdir(mode=_CLOSED)
        return stage

    def _name_volume(self, stage: Path, home: Path, record: Record, *, point: str) -> None:
        _write_record(stage / "live", record)
        self._keeper.settle(stage, stage / "live", stage.parent)
        faults.point(point)
        stage.rename(home)
        self._keeper.settle(stage.parent, home.parent)

    def remove(self, volume: str) -> None:
        """As promised by the contract."""
        with self._changing(volume, f"remove volume {volume}") as home:
            if home.is_dir():
                self._throw(home)

    def path(self, volume: str) -> Path:
        """As promised by the contract."""
        return self._home(volume) / "live" / "data"

    def resize(self, volume: str, quota: int) -> None:
        """As promised by the contract."""
        with self._changing(volume, f"resize volume {volume}"):
            self._resize(self._home(volume), quota)

    def _resize(self, home: Path, quota: int) -> None:
        record = _read_record(home / "live")
        self._keeper.limit(home / "live", quota)
        if record.quota != quota:
            _write_record(home / "live", Record(**{**asdict(record), "quota": quota}))
            self._keeper.settle(home / "live")

    def clone(self, volume: str, *, snapshot: str = "", to: VolumePlan) -> Path:
        """As promised by the contract."""
        source = self._content(volume, snapshot)
        origin = f"{volume}@{snapshot}"
        with self._changing(to.name, f"clone volume {volume} to {to.name}") as home:
            if home.is_dir():
                if _read_record(home / "live").cloned != origin:
                    raise Conflict(f"cannot clone volume {volume} to {to.name}: there is a volume of that name")
                return home / "live" / "data"
            stage = self._begin_volume(to)
            self._keeper.duplicate(source, stage / "live", quota=to.quota, sealed=False)
            self._name_volume(stage, home, Record(quota=to.quota, cloned=origin), point="volume.clone.staged")
        return home / "live" / "data"

    # snapshots

    def snapshot_path(self, volume: str, snapshot: str) -> Path:
        """As promised by the contract."""
        return self._content(volume, check_stored_name(snapshot, what="snapshot"))

    def snapshot(self, volume: str, snapshot: str) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        with self._changing(volume, f"snapshot volume {volume}"):
            home = self._home(volume)
            wrap = home / "kept" / snapshot
            if (wrap / "data").is_dir():
                return
            if wrap.exists():
                self._throw(wrap)
            wrap.mkdir(mode=_TRAVERSE)
            quota = _read_record(home / "live").quota
            _write_record(wrap, Record(quota=quota, taken_at=time.time_ns() // 1_000_000))
            faults.point("volume.snapshot.begun")
            try:
                self._keeper.duplicate(home / "live" / "data", wrap, quota=0, sealed=True)
            except BaseException:
                self._give_up(wrap)
                raise
            faults.point("volume.snapshot.copied")

    def receive(self, volume: str, snapshot: str, fill: Callable[[Path], None]) -> None:
        """As promised by the contract. The volume can be used meanwhile."""
        check_stored_name(snapshot, what="snapshot")
        what = f"receive snapshot {snapshot} of volume {volume}"
        wrap = self._home(volume) / "kept" / snapshot
        if (wrap / "data").is_dir():
            return
        stage = self._root / ".making" / f"{volume}~{snapshot}"
        with telling(what):
            if stage.exists():
                self._throw(stage)
            stage.mkdir(mode=_TRAVERSE)
            stage.chmod(_TRAVERSE)
            quota = _read_record(wrap.parent.parent / "live").quota
            _write_record(stage, Record(quota=quota, taken_at=time.time_ns() // 1_000_000))
            try:
                self._keeper.make(stage)
                fill_top(stage / "data", fill)
                self._keeper.seal(stage)
                self._keeper.settle(stage, stage.parent)
            except BaseException:
                self._give_up(stage)
                raise
        with self._changing(volume, what):
            faults.point("volume.receive.filled")
            stage.rename(wrap)
            self._keeper.settle(wrap.parent, stage.parent)

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        with self._changing(volume, f"delete snapshot {snapshot} of volume {volume}") as home:
            wrap = home / "kept" / snapshot
            if wrap.is_dir():
                self._throw(wrap)

    def restore(self, volume: str, snapshot: str, *, keep_as: str) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        check_stored_name(keep_as, what="snapshot")
        with self._changing(volume, f"restore volume {volume} from snapshot {snapshot}"):
            home = self._home(volume)
            self._finish(home, drop=self._throw)
            record = _read_record(home / "live")
            if record.restored == keep_as:
                return
            if (home / "kept" / keep_as).exists():
                raise Conflict(
                    f"cannot restore volume {volume} from snapshot {snapshot}: there is a snapshot {keep_as} already,"
                    " so what is there now could not be kept under that name"
                )
            source = self._content(volume, snapshot)
            stage = home / "making" / keep_as
            try:
                self._stage(source, stage, Record(**{**asdict(record), "restored": keep_as}))
            except BaseException:
                self._give_up(stage)
                raise
            exchange_names(home / "live", stage)
            self._keeper.settle(home, home / "making")
            faults.point("volume.restore.exchanged")
            self._finish(home, drop=self._throw)
            faults.point("volume.restore.kept")

    def _stage(self, source: Path, stage: Path, record: Record) -> None:
        stage.mkdir(mode=_TRAVERSE)
        stage.chmod(_TRAVERSE)
        faults.point("volume.restore.begun")
        _write_record(stage, record)
        self._keeper.duplicate(source, stage, quota=record.quota, sealed=False)
        faults.point("volume.restore.copied")

    def _finish(self, home: Path, *, drop: Callable[[Path], object]) -> None:
        """End what was under way in a volume: keep the old content of a restore, drop what never became anything."""
        restored = _read_record(home / "live").restored
        for stage in tuple((home / "making").iterdir()):
            if stage.name != restored:
                drop(stage)
                continue
            record = _read_record(stage)
            discarded = {"discarded": True, "taken_at": time.time_ns() // 1_000_000}
            _write_record(stage, Record(**{**asdict(record), **discarded}))
            self._keeper.seal(stage)
            stage.rename(home / "kept" / stage.name)  # a crash that undoes this one is followed by another of it
        for wrap in tuple((home / "kept").iterdir()):
            if not (wrap / "data").is_dir():
                drop(wrap)

    # looking

    def list(self) -> tuple[StoredVolume, ...]:
        """As promised by the contract."""
        with telling("list volumes"):
            return tuple(self._look(self._root / name) for name in self._names())

    def _names(self) -> tuple[str, ...]:
        names = [path.name for path in self._root.iterdir() if not path.name.startswith(".")]
        return tuple(sorted(name for name in names if (self._root / name / "live" / "data").is_dir()))

    def _look(self, home: Path) -> StoredVolume:
        found = []
        for wrap in (home / "kept").iterdir():
            if (wrap / "data").is_dir():
                record = _read_record(wrap)
                found.append(StoredSnapshot(name=wrap.name, taken_at=record.taken_at, discarded=record.discarded))
        found.sort(key=lambda one: (one.taken_at, one.name))
        return StoredVolume(name=home.name, quota=_read_record(home / "live").quota, snapshots=tuple(found))

    def usage(self, volume: str) -> VolumeUsage:
        """As promised by the contract."""
        with telling(f"measure volume {volume}"):
            home = self._home(volume)
            kept = {one.name: home / "kept" / one.name for one in self._look(home).snapshots}
            return self._keeper.usage(home / "live", kept, quota=_read_record(home / "live").quota)

    def room(self) -> StorageRoom:
        """As promised by the contract."""
        with telling("look at the storage of volumes"):
            size, free = room_of(self._root)
            return StorageRoom(size=size, free=free, growth=self._keeper.growth())

    def files(self, volume: str, *, snapshot: str = "", limit: int = 10_000) -> tuple[StoredFile, ...]:
        """As promised by the contract."""
        with telling(f"list the files of volume {volume}"):
            return browse.list_files(self._content(volume, snapshot), limit=limit)

    def diff(
        self, volume: str, *, older: str, newer: str = "", limit: int = 10_000, contents: bool = False
    ) -> tuple[StoredChange, ...]:
        """As promised by the contract."""
        with telling(f"compare states of volume {volume}"):
            before, after = self._content(volume, older), self._content(volume, newer)
            return browse.compare(before, after, limit=limit, contents=contents)

    # ground

    @contextmanager
    def _changing(self, volume: str, what: str) -> Iterator[Path]:
        """Let one at a time change a volume."""
        home = self._root / check_stored_name(volume, what="volume")
        with self._locking:
            lock = self._locks.setdefault(volume, threading.RLock())
        with lock, telling(what):
            yield home

    def _home(self, volume: str) -> Path:
        home = self._root / check_stored_name(volume, what="volume")
        with telling(f"find volume {volume}"):
            (self._root / ".gone").stat()  # a storage that is away would look like one without volumes
            try:
                (home / "live" / "data").stat()
            except FileNotFoundError:
                raise NotFound(f"there is no volume {volume} on this node") from None
        return home

    def _content(self, volume: str, snapshot: str) -> Path:
        home = self._home(volume)
        if not snapshot:
            return home / "live" / "data"
        data = home / "kept" / check_stored_name(snapshot, what="snapshot") / "data"
        if not data.is_dir():
            raise NotFound(f"volume {volume} has no snapshot {snapshot}")
        return data

    def _throw(self, wrap: Path) -> None:
        """Take a name away at once, and then what it names."""
        self._purge(self._put_away(wrap))

    def _put_away(self, wrap: Path) -> Path:
        """Take a name away; `upkeep` removes what it named, which can take long."""
        gone = self._root / ".gone" / f"{wrap.name.lstrip('.')}-{secrets.token_hex(4)}"
        wrap.rename(gone)
        self._keeper.settle(wrap.parent)
        faults.point("volume.remove.named")
        return gone

    def _purge(self, wrap: Path) -> None:
        for inner in (*_folders(wrap / "kept"), *_folders(wrap / "making"), wrap / "live"):
            if inner.is_dir():
                self._keeper.discard(inner)
        self._keeper.discard(wrap)

    def _give_up(self, wrap: Path) -> None:
        """Remove what could not be made. A storage that is gone keeps it until the next `open`."""
        try:
            self._throw(wrap)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                raise


def _folders(path: Path) -> tuple[Path, ...]:
    return tuple(path.iterdir()) if path.is_dir() else ()


def _read_record(wrap: Path) -> Record:
    try:
        data = os.getxattr(wrap, _RECORD)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return Record()
        raise
    try:
        return Record(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise Broken(f"cannot read the record of {wrap}: {error}", hint="nobody but Nebh should write there") from error


def _write_record(wrap: Path, record: Record) -> None:
    os.setxattr(wrap, _RECORD, json.dumps(asdict(record)).encode())


def settle_names(*folders: Path) -> None:
    """Bring the names in these folders to the disk, where renames are journalled in their order. Raises OSError."""
    for folder in dict.fromkeys(folders):
        fsync_directory(folder)
