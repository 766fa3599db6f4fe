"""Backups as plain copies in a folder (contract: base.BackupDriver): they can fail, hang, be lost and be exchanged."""

from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import replace
from pathlib import Path

from nebh.drivers.backups.base import RULE, check_restored, digest_folder
from nebh.host.trees import copy_tree, remove_tree
from nebh.model.backup import Backup, BackupRetention
from nebh.model.errors import BadInput, Broken, NebhError, NotFound, Refused
from nebh.model.names import is_digest
from nebh.model.stored import check_stored_name


class FakeBackups:
    """See above. Orders from a test: `fail_next`, `hang_next`, `lose`, `exchange`; `calls` is what happened."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[tuple[str, str]] = []
        self._folder = folder
        self._numbers = itertools.count(1)
        self._kept: dict[str, Backup] = {}
        self._broken = False
        self._errors: dict[str, list[NebhError]] = {}
        self._gates: dict[str, list[threading.Event]] = {}

    def fail_next(self, verb: str, error: NebhError) -> None:
        """Have the next call of `verb` raise `error`."""
        self._errors.setdefault(verb, []).append(error)

    def hang_next(self, verb: str) -> threading.Event:
        """Have the next call of `verb` wait until the returned event is set."""
        gate = threading.Event()
        self._gates.setdefault(verb, []).append(gate)
        return gate

    def lose(self, backup: Backup) -> None:
        """Have the store lose a backup."""
        del self._kept[backup.id]
        remove_tree(self._folder / backup.id)

    def exchange(self, one: Backup, other: Backup) -> None:
        """Have the store give the contents of `other` for `one`."""
        remove_tree(self._folder / one.id)
        copy_tree(self._folder / other.id, self._folder / one.id, clone=False)
        self._broken = True

    def _enter(self, verb: str, what: str = "") -> None:
        self.calls.append((verb, what))
        if self._gates.get(verb):
            self._gates[verb].pop(0).wait()
        if self._errors.get(verb):
            raise self._errors[verb].pop(0)

    def init(self) -> None:
        """As promised by the contract."""
        self._enter("init")
        self._folder.mkdir(parents=True, exist_ok=True)

    def backup(self, folder: Path, *, volume: str, snapshot: str) -> Backup:
        """As promised by the contract."""
        check_stored_name(volume, what="volume")
        check_stored_name(snapshot, what="snapshot")
        self._enter("backup", volume)
        digest, size = digest_folder(folder)
        for one in self._kept.values():
            if (one.volume, one.snapshot, one.digest) == (volume, snapshot, digest):
                return one
        number = next(self._numbers)
        made = Backup(
            id=hashlib.sha256(f"{number}".encode()).hexdigest(),
            volume=volume,
            snapshot=snapshot,
            digest=digest,
            taken_at=number,
            bytes=size,
        )
        copy_tree(folder, self._folder / made.id, clone=False)
        self._kept[made.id] = made
        return made

    def list(self) -> tuple[Backup, ...]:
        """As promised by the contract."""
        self._enter("list")
        return tuple(sorted(self._kept.values(), key=lambda one: one.taken_at))

    def restore(self, wanted: Backup, *, into: Path) -> None:
        """As promised by the contract."""
        if not is_digest(wanted.id):
            raise BadInput(f"cannot restore backup {wanted.id!r}: its id is no whole SHA-256")
        if into.exists() or into.is_symlink():
            raise BadInput(f"cannot restore a backup into {into}: it is there already")
        self._enter("restore", wanted.volume)
        found = self._kept.get(wanted.id)
        if found is None:
            raise NotFound(f"cannot restore volume {wanted.volume}: the store does not have it (any more)")
        if replace(found, taken_at=0, bytes=0) != replace(wanted, taken_at=0, bytes=0):
            raise Refused(f"cannot restore volume {wanted.volume}: the store says it is of something else", rule=RULE)
        part = into.with_name(f".{into.name}.part")
        remove_tree(part)
        try:
            copy_tree(self._folder / wanted.id, part, clone=False)
            check_restored(wanted, part)
            part.rename(into)
        finally:
            remove_tree(part)

    def verify(self, *, percent: int = 0) -> None:
        """As promised by the contract; it looks at contents only when asked for some."""
        self._enter("verify")
        if self._broken and percent:
            raise Broken("cannot verify the backups: contents were exchanged")

    def forget(
        self, volume: str, retention: BackupRetention, *, never: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        """As promised by the contract; it knows `last` only."""
        self._enter("forget", volume)
        mine = [one for one in self.list() if one.volume == volume]
        gone = tuple(one.id for one in mine[: -max(1, retention.last)] if one.id not in never)
        for one in mine:
            if one.id in gone:
                self.lose(one)
        return gone
