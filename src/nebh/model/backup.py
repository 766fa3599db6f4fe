"""Backups: copies of a volume's snapshots in a store that is not trusted."""

from __future__ import annotations

from dataclasses import dataclass


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
