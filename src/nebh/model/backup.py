"""Backups: copies of a volume's snapshots in a store that is not trusted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from nebh.model.stored import stored_name

DAY = 86_400_000
_NAMED = re.compile(r"(?P<run>[a-z0-9-]{1,40})\.e(?P<epoch>\d{1,15})-c(?P<counter>\d{1,15})\.v(?P<version>\d{1,15})\Z")


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What a node writes down of a backup it made: whoever restores compares with this, not with what the store says.

    id: hex SHA-256, names exactly one backup in its store; digest: hex SHA-256 over names, owners, modes and contents
    of all that was backed up; taken_at: Unix ms; bytes: of its files.
    """

    id: str
    volume: str
    snapshot: str
    digest: str
    taken_at: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class BackupRetention:
    """Which backups of a volume are kept: the last ones, and the last of so many days, weeks and months. At least one
    always is."""

    last: int = 3
    daily: int = 7
    weekly: int = 4
    monthly: int = 6


@dataclass(frozen=True, kw_only=True)
class BackupRule:
    """Where a service's volumes are copied to, and when, as an operator's policy says.

    to: an absolute path on the node, `sftp:user@host:/path` or `s3:https://host/bucket[/path]`; every: ms. volumes: names,
    () = all that outlive instances but caches. password, ssh_key, secret_key: names of the service's secrets; host_key: the
    SFTP server's public key; port: of that server; access_key, region: of the S3 store.
    """

    to: str
    password: str
    every: int = DAY
    keep: BackupRetention = field(default_factory=BackupRetention)
    volumes: tuple[str, ...] = ()
    ssh_key: str = ""
    host_key: str = ""
    port: int = 22
    access_key: str = ""
    secret_key: str = ""
    region: str = ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that the node alone opens for it; no container gets them."""
        return tuple(one for one in (self.password, self.ssh_key, self.secret_key) if one)


@dataclass(frozen=True, kw_only=True)
class BackupRow:
    """One volume in one backup of a service, as a node journals and reports it, and as an order names it.

    run: name of the backup, the same for all volumes that were copied together; source: name of the node that made it;
    epoch, counter, version: of the release whose data it is. listed: it was read from the store, not written down by this
    node when it was made.
    """

    run: str
    service: str
    replica: int
    volume: str
    source: str
    id: str
    digest: str
    bytes: int
    taken_at: int
    epoch: int
    counter: int
    version: int
    listed: bool = False

    @property
    def stored(self) -> Backup:
        """What the store must say of it."""
        return Backup(
            id=self.id,
            volume=stored_name(service=self.service, volume=self.volume, replica=self.replica),
            snapshot=name_in_store(self.run, epoch=self.epoch, counter=self.counter, version=self.version),
            digest=self.digest,
            taken_at=self.taken_at,
            bytes=self.bytes,
        )


@dataclass(frozen=True, kw_only=True)
class BackupWish:
    """What an operator's order says of backups. rows: those to restore, one for each volume; source: the node whose part
    of the store is listed ("" = that of the node itself); percent: of the contents that are read to verify them."""

    rows: tuple[BackupRow, ...] = ()
    source: str = ""
    percent: int = 0


def name_in_store(run: str, *, epoch: int, counter: int, version: int) -> str:
    """Return the name under which the store keeps it: a node that knows nothing reads from it what the data is."""
    return f"{run}.e{epoch}-c{counter}.v{version}"


def read_stored(found: Backup, *, source: str) -> BackupRow | None:
    """Return what a store's listing says of one backup, None for what no node of ours has put there."""
    named, parts = _NAMED.match(found.snapshot), found.volume.split(".")
    if named is None or len(parts) != 3 or not parts[2].isdigit():
        return None
    return BackupRow(
        run=named["run"],
        service=parts[0],
        replica=int(parts[2]),
        volume=parts[1],
        source=source,
        id=found.id,
        digest=found.digest,
        bytes=found.bytes,
        taken_at=found.taken_at,
        epoch=int(named["epoch"]),
        counter=int(named["counter"]),
        version=int(named["version"]),
        listed=True,
    )
