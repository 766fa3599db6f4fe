"""Volumes on storage of one's own, by commands that its owner declares (docs/data-lvm.md).

A command is a list of words, without a shell; `{volume}` and the like stand for names that were checked before. It ends
with 0 when the thing is done or was done before, with a status below when it cannot be, and it can be killed at any
instant and called again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from nebh.drivers.volumes import browse
from nebh.drivers.volumes.base import OutOfSpace, StorageGone, Unable, telling
from nebh.host.disk import free_bytes
from nebh.host.run import Command, CommandFailed, Result, run
from nebh.host.trees import measure
from nebh.model.errors import BadInput, Conflict, Failed, NebhError, NotFound
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

STATUSES: dict[int, type[NebhError]] = {3: NotFound, 4: Conflict, 5: OutOfSpace, 6: StorageGone, 7: Unable}
"""What a command's exit status says; any other but 0 is Failed."""
_TIMED_OUT = (124, 137)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_WORDS: dict[str, frozenset[str]] = {
    "snapshot": frozenset({"volume", "snapshot", "path"}),
    "restore": frozenset({"volume", "snapshot", "keep_as", "path"}),
    "delete": frozenset({"volume", "snapshot", "path"}),
    "list": frozenset(),
    "make": frozenset({"volume", "quota", "uid", "gid", "path"}),
    "remove": frozenset({"volume", "path"}),
    "clone": frozenset({"volume", "snapshot", "to", "quota", "path"}),
    "resize": frozenset({"volume", "quota", "path"}),
    "browse": frozenset({"volume", "snapshot", "path"}),
    "open": frozenset(),
}
_NEEDED = ("snapshot", "restore", "delete", "list")


@dataclass(frozen=True, kw_only=True)
class StorageCommands:
    """The commands of a storage. path: where its volumes are mounted, such as `/srv/nebh/{volume}`. The first four are
    needed; without `make` a volume is a folder that is there. timeout: seconds for each. quotas: it enforces them;
    live: its snapshots are of one instant.

    list prints a line `volume NAME QUOTA` for each volume and `snapshot VOLUME NAME TAKEN_AT kept|discarded` for each
    snapshot, oldest first (bytes; Unix ms, 0 = unknown). browse prints the folder that shows a snapshot, read-only.
    `clone` gets an empty {snapshot} for the state of now.
    """

    path: str
    snapshot: tuple[str, ...]
    restore: tuple[str, ...]
    delete: tuple[str, ...]
    list: tuple[str, ...]
    make: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    clone: tuple[str, ...] = ()
    resize: tuple[str, ...] = ()
    browse: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    timeout: int = 600
    quotas: bool = False
    live: bool = False

    def find_problems(self) -> tuple[str, ...]:
        """Return one sentence for everything that is wrong with the declaration."""
        found = [f"there is no command `{verb}`" for verb in _NEEDED if not getattr(self, verb)]
        for verb, known in _WORDS.items():
            words: tuple[str, ...] = getattr(self, verb)
            if words and not words[0].startswith("/"):
                found.append(f"`{verb}`: {words[0]!r} is no absolute path of a program")
            for word in words:
                strange = [f"{{{name}}}" for name in _PLACEHOLDER.findall(word) if name not in known]
                found += [f"`{verb}`: {one} is none of {_render(known)}" for one in strange]
        if not self.path.startswith("/") or _PLACEHOLDER.findall(self.path) != ["volume"]:
            found.append(f"`path`: {self.path!r} is no absolute path with one {{volume}}")
        if self.timeout < 1:
            found.append(f"`timeout`: {self.timeout} is less than a second")
        return tuple(found)


def _render(names: frozenset[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "no placeholder at all"


class CommandVolumes:
    """Contract: base.VolumeDriver. Raises BadInput for commands that cannot work, all problems at once."""

    def __init__(self, commands: StorageCommands) -> None:
        problems = commands.find_problems()
        if problems:
            raise BadInput("cannot use the commands of this storage: " + "; ".join(problems))
        self._commands = commands

    @property
    def abilities(self) -> frozenset[Ability]:
        """What is declared."""
        found = {
            Ability.QUOTA: self._commands.quotas,
            Ability.LIVE: self._commands.live,
            Ability.BROWSE: bool(self._commands.browse),
            Ability.CLONE: bool(self._commands.clone),
            Ability.RESIZE: bool(self._commands.resize),
        }
        return frozenset(ability for ability, there in found.items() if there)

    def open(self) -> None:
        """Run `open`, where it is declared, and see whether `list` works."""
        if self._commands.open:
            self._run("open", "open the storage of volumes")
        self.list()

    def check(self) -> None:
        """As promised by the contract: `list` has to work."""
        self.list()

    def upkeep(self) -> None:
        """Its owner's affair."""

    def make(self, plan: VolumePlan) -> Path:
        """As promised by the contract. Without the command, the folder has to be there."""
        name = check_stored_name(plan.name, what="volume")
        if self._commands.make:
            values = {"quota": plan.quota, "uid": plan.uid, "gid": plan.gid}
            self._run("make", f"make volume {name}", volume=name, **values)
        return self.path(name)

    def remove(self, volume: str) -> None:
        """As promised by the contract. Raises Unable without the command."""
        check_stored_name(volume, what="volume")
        if any(one.name == volume for one in self.list()):
            self._run("remove", f"remove volume {volume}", volume=volume)

    def path(self, volume: str) -> Path:
        """As promised by the contract."""
        place = self._place(volume)
        with telling(f"find volume {volume}"):
            if not place.is_dir() or place.is_symlink():
                raise NotFound(f"there is no volume {volume} on this node: {place} is no folder")
        return place

    def _place(self, volume: str) -> Path:
        return Path(self._commands.path.replace("{volume}", check_stored_name(volume, what="volume")))

    def snapshot_path(self, volume: str, snapshot: str) -> Path:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        self._find(volume, snapshot)
        said = self._run("browse", f"open snapshot {snapshot} of {volume}", volume=volume, snapshot=snapshot).text
        place = Path(said.strip())
        if not place.is_absolute() or not place.is_dir():
            raise Failed(f"cannot open snapshot {snapshot} of {volume}: `browse` printed {said[:200]!r}, no folder")
        return place

    def snapshot(self, volume: str, snapshot: str) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        self._find(volume)
        self._run("snapshot", f"snapshot volume {volume}", volume=volume, snapshot=snapshot)

    def restore(self, volume: str, snapshot: str, *, keep_as: str) -> None:
        """As promised by the contract, as far as the command is."""
        check_stored_name(snapshot, what="snapshot")
        check_stored_name(keep_as, what="snapshot")
        self._place(volume)
        what = f"restore volume {volume} from snapshot {snapshot}"
        self._run("restore", what, volume=volume, snapshot=snapshot, keep_as=keep_as)

    def receive(self, volume: str, snapshot: str, fill: Callable[[Path], None]) -> None:  # noqa: ARG002 - the contract's
        """As promised by the contract: no command puts what comes from elsewhere into a snapshot."""
        raise Unable(f"cannot receive snapshot {snapshot} of volume {volume}: this storage takes its snapshots itself")

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        """As promised by the contract."""
        check_stored_name(snapshot, what="snapshot")
        check_stored_name(volume, what="volume")
        names = {snapshot.name for one in self.list() if one.name == volume for snapshot in one.snapshots}
        if snapshot in names:
            self._run("delete", f"delete snapshot {snapshot} of volume {volume}", volume=volume, snapshot=snapshot)

    def list(self) -> tuple[StoredVolume, ...]:
        """As promised by the contract: what the command says."""
        said = self._run("list", "list volumes").text
        quotas: dict[str, int] = {}
        snapshots: dict[str, list[StoredSnapshot]] = {}
        for number, line in enumerate(said.splitlines(), start=1):
            try:
                _read_line(line.split(), quotas, snapshots)
            except (ValueError, BadInput) as error:
                raise Failed(f"cannot list volumes: line {number} of `list` is {line[:200]!r}: {error}") from error
        return tuple(
            StoredVolume(name=name, quota=quota, snapshots=tuple(snapshots.get(name, ())))
            for name, quota in sorted(quotas.items())
        )

    def clone(self, volume: str, *, snapshot: str = "", to: VolumePlan) -> Path:
        """As promised by the contract."""
        check_stored_name(to.name, what="volume")
        if snapshot:
            check_stored_name(snapshot, what="snapshot")
        self._find(volume, snapshot)
        what = f"clone volume {volume} to {to.name}"
        self._run("clone", what, volume=volume, snapshot=snapshot, to=to.name, quota=to.quota)
        return self.path(to.name)

    def usage(self, volume: str) -> VolumeUsage:
        """As promised by the contract; every file is looked at."""
        quota = self._find(volume).quota
        place = self.path(volume)
        with telling(f"measure volume {volume}"):
            return VolumeUsage(used=measure(place), quota=quota, free=free_bytes(place))

    def room(self) -> StorageRoom:
        """Its owner's affair."""
        return StorageRoom(size=0, free=0)

    def resize(self, volume: str, quota: int) -> None:
        """As promised by the contract."""
        self._find(volume)
        self._run("resize", f"resize volume {volume}", volume=volume, quota=quota)

    def files(self, volume: str, *, snapshot: str = "", limit: int = 10_000) -> tuple[StoredFile, ...]:
        """As promised by the contract."""
        place = self._content(volume, snapshot)
        with telling(f"list the files of volume {volume}"):
            return browse.list_files(place, limit=limit)

    def diff(
        self, volume: str, *, older: str, newer: str = "", limit: int = 10_000, contents: bool = False
    ) -> tuple[StoredChange, ...]:
        """As promised by the contract."""
        before, after = self._content(volume, older), self._content(volume, newer)
        with telling(f"compare states of volume {volume}"):
            return browse.compare(before, after, limit=limit, contents=contents)

    def _content(self, volume: str, snapshot: str) -> Path:
        return self.snapshot_path(volume, snapshot) if snapshot else self.path(volume)

    def _find(self, volume: str, snapshot: str = "") -> StoredVolume:
        check_stored_name(volume, what="volume")
        found = next((one for one in self.list() if one.name == volume), None)
        if found is None:
            raise NotFound(f"there is no volume {volume} on this node")
        if snapshot and snapshot not in {one.name for one in found.snapshots}:
            raise NotFound(f"volume {volume} has no snapshot {snapshot}")
        return found

    def _run(self, verb: str, what: str, **values: str | int) -> Result:
        words: tuple[str, ...] = getattr(self._commands, verb)
        if not words:
            raise Unable(f"cannot {what}: this storage declares no command `{verb}`")
        if "volume" in values:
            values = {**values, "path": str(self._place(str(values["volume"])))}
        argv = tuple(_PLACEHOLDER.sub(lambda found: str(values[found.group(1)]), word) for word in words)
        # `timeout` ends what the command has started, too
        bounded = ("timeout", "--kill-after=5", str(self._commands.timeout), *argv)
        try:
            return run(Command(argv=bounded, timeout=self._commands.timeout + 30.0))
        except CommandFailed as error:
            raise self._explain(what, argv, error) from error

    def _explain(self, what: str, argv: tuple[str, ...], error: CommandFailed) -> NebhError:
        shown = Command(argv=argv).render()
        if error.status is None or error.status in _TIMED_OUT:
            return Failed(f"cannot {what}: `{shown}` did not end within {self._commands.timeout} s")
        kind = STATUSES.get(error.status, Failed)
        said = error.stderr.strip()[-2000:] or "it said nothing"
        return kind(f"cannot {what}: `{shown}` ended with status {error.status}: {said}")


def _read_line(words: list[str], quotas: dict[str, int], snapshots: dict[str, list[StoredSnapshot]]) -> None:
    match words:
        case []:
            return
        case ["volume", name, quota]:
            quotas[check_stored_name(name, what="volume")] = int(quota)
        case ["snapshot", volume, name, taken_at, ("kept" | "discarded") as how]:
            check_stored_name(volume, what="volume")
            check_stored_name(name, what="snapshot")
            found = StoredSnapshot(name=name, taken_at=int(taken_at), discarded=how == "discarded")
            snapshots.setdefault(volume, []).append(found)
        case _:
            raise ValueError("it is neither `volume NAME QUOTA` nor `snapshot VOLUME NAME TAKEN_AT kept|discarded`")


def commands_of(declared: dict[str, object]) -> StorageCommands:
    """Return the commands of a decoded JSON object. Raises BadInput, naming every field that cannot be one."""
    known = {one.name: one for one in fields(StorageCommands)}
    problems = [f"{name!r} is no field" for name in declared if name not in known]
    values: dict[str, object] = {}
    for name, value in declared.items():
        if name in ("path", "timeout", "quotas", "live"):
            wanted = {"path": str, "timeout": int, "quotas": bool, "live": bool}[name]
            if type(value) is not wanted:
                problems.append(f"{name!r} is no {wanted.__name__}")
            values[name] = value
        elif name in known:
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                problems.append(f"{name!r} is no list of words")
            else:
                values[name] = tuple(value)
    problems += [f"{name!r} is missing" for name in ("path", *_NEEDED) if name not in declared]
    if problems:
        raise BadInput("cannot use the commands of this storage: " + "; ".join(problems))
    return StorageCommands(**values)  # type: ignore[arg-type]
