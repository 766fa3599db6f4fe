"""What every backup driver does. Every verb may be repeated: doing it twice is doing it once.

The store is trusted with nothing but keeping bytes: it can lose a backup, not change one. Which backup is the newest is
not asked of it; a caller restores the `Backup` it wrote down when it was made, or one that an operator's order names.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nebh.host.trees import Entry, open_folder, walk
from nebh.model.backup import Backup, BackupRetention, BackupRule
from nebh.model.errors import Failed, Refused

RULE = "backup"
_PIECE = 1 << 20


class BackupDriver(Protocol):
    """Copies folders to a store and back. Errors: Unreachable for a store that does not answer, NotFound for a backup
    it does not have, Refused (an alarm) for one that is not what was written down, Broken for a store that is damaged,
    BadInput for settings, else Failed."""

    def init(self) -> None:
        """Make the store ready. One that is there is left as it is; one with another password is BadInput."""
        ...

    def backup(self, folder: Path, *, volume: str, snapshot: str) -> Backup:
        """Copy a folder that nobody writes to, such as a snapshot's. One of that volume and snapshot that is there with
        the same content is not made again."""
        ...

    def list(self) -> tuple[Backup, ...]:
        """Return what the store says it has, oldest first."""
        ...

    def restore(self, wanted: Backup, *, into: Path) -> None:
        """Make the folder `into`, which is not there, with what was backed up; on the disk on return. It appears in
        one step, after everything in it was compared with `wanted`."""
        ...

    def verify(self, *, percent: int = 0) -> None:
        """Check the store's structure and so many percent of its contents. Raises Broken, with what is wrong."""
        ...

    def forget(
        self, volume: str, retention: BackupRetention, *, never: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        """Remove the volume's backups that are not to be kept, those with the ids `never` excepted; return the ids of
        what was removed."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoreWish:
    """A store to open. part: of the store, such as `db/node1`, which one node alone writes; secrets: values by name;
    reads, writes: folders of this machine that one needs for the verbs to come; cancelled: tells that nobody waits for it
    any more."""

    rule: BackupRule
    part: str
    secrets: dict[str, bytes] = field(repr=False)
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    cancelled: Callable[[], bool] = lambda: False


StoreOpener = Callable[[StoreWish], BackupDriver]


def no_stores(wish: StoreWish) -> BackupDriver:
    """A node that reaches no store. Raises Failed."""
    raise Failed(f"cannot reach {wish.rule.to}: this node makes no backups")


def digest_folder(folder: Path) -> tuple[str, int]:
    """Return (hex SHA-256, bytes of its files) over all names in a folder, their kinds, owners, modes and contents, and
    the folder's own owner and mode. Times do not count. Raises OSError."""
    digest, total = hashlib.sha256(), 0
    top = open_folder(folder)
    try:
        digest.update(_head(b"", os.fstat(top)))
        for entry in walk(top):
            digest.update(_head(entry.path, entry.state))
            if stat.S_ISLNK(entry.state.st_mode):
                digest.update(hashlib.sha256(os.fsencode(os.readlink(entry.name, dir_fd=entry.folder))).digest())
            elif stat.S_ISREG(entry.state.st_mode):
                content, size = _digest_file(entry)
                digest.update(content)
                total += size
    finally:
        os.close(top)
    return digest.hexdigest(), total


def _head(path: bytes, state: os.stat_result) -> bytes:
    words = f"{stat.S_IFMT(state.st_mode)} {stat.S_IMODE(state.st_mode)} {state.st_uid} {state.st_gid} {len(path)} "
    return words.encode() + path + b"\n"


def _digest_file(entry: Entry) -> tuple[bytes, int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    digest, size = hashlib.sha256(), 0
    with open(os.open(entry.name, flags, dir_fd=entry.folder), "rb") as file:  # noqa: PTH123 - by its folder
        while data := file.read(_PIECE):
            digest.update(data)
            size += len(data)
    return digest.digest(), size


def check_restored(wanted: Backup, folder: Path) -> None:
    """Raise Refused when a folder is not what was backed up."""
    found, _ = digest_folder(folder)
    if found != wanted.digest:
        raise Refused(
            f"cannot restore volume {wanted.volume} from backup {wanted.id[:12]}: it is not what was backed up",
            rule=RULE,
            hint="the store, or whoever has its password, exchanged it; choose another backup",
        )
