"""Volumes and snapshots of this node: journalled before they exist and until they are gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from nebh.journal.database import Database
from nebh.model.kept import SnapshotKind, SnapshotRow, VolumeRow

_VOLUME: Final = "service, replica, name, epoch, counter, version, made_at, damaged"
KEPT_ORDERS: Final = 200
_SNAPSHOT: Final = "service, replica, volume, name, kind, txn, epoch, counter, version, taken_at, until, whole"


class Volumes:
    """The tables of the node's data. Reads give values; writes are durable on return."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def volumes(self, service: str = "") -> tuple[VolumeRow, ...]:
        """Return the volumes of a service ("" = of all), by name."""
        rows = self.database.read(
            f"SELECT {_VOLUME} FROM volumes WHERE ? IN ('', service) ORDER BY service, name, replica", service
        )
        return tuple(VolumeRow(**_fields(_VOLUME, row)) for row in rows)

    def volume(self, service: str, replica: int, name: str) -> VolumeRow | None:
        """Return one volume."""
        return next((one for one in self.volumes(service) if (one.replica, one.name) == (replica, name)), None)

    def add_volume(self, row: VolumeRow) -> None:
        """Journal a volume before it is made; one that is known stays as it is."""
        self.database.write(
            f"INSERT OR IGNORE INTO volumes ({_VOLUME}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(getattr(row, name) for name in _VOLUME.split(", ")),
        )

    def note_writer(self, row: VolumeRow, *, epoch: int, counter: int, version: int) -> None:
        """From now on release `counter` may write this volume, and its data has `version`."""
        self.database.write(
            "UPDATE volumes SET epoch = ?, counter = ?, version = ? WHERE service = ? AND replica = ? AND name = ?",
            *(epoch, counter, version, row.service, row.replica, row.name),
        )

    def note_damage(self, row: VolumeRow, why: str) -> None:
        """Note why a volume's storage cannot be used; "" = it can again."""
        self.database.write(
            "UPDATE volumes SET damaged = ? WHERE service = ? AND replica = ? AND name = ?",
            *(why, row.service, row.replica, row.name),
        )

    def forget_volume(self, row: VolumeRow) -> None:
        """The volume and its snapshots are gone."""
        key = (row.service, row.replica, row.name)
        with self.database.atomically():
            self.database.write("DELETE FROM snapshots WHERE service = ? AND replica = ? AND volume = ?", *key)
            self.database.write("DELETE FROM volumes WHERE service = ? AND replica = ? AND name = ?", *key)

    # orders that are carried out beside transactions

    def begin_order(self, *, nonce: str, service: str, envelope: str) -> None:
        """Journal an order (base64 of its envelope) before it is carried out; one that is known stays as it is."""
        with self.database.atomically():
            self.database.write(
                "INSERT OR IGNORE INTO volume_orders (nonce, service, envelope) VALUES (?, ?, ?)",
                *(nonce, service, envelope),
            )
            self.database.write(
                "DELETE FROM volume_orders WHERE ended AND number <= (SELECT MAX(number) FROM volume_orders) - ?",
                KEPT_ORDERS,
            )

    def end_order(self, nonce: str) -> None:
        """It is carried out, or cannot be."""
        self.database.write("UPDATE volume_orders SET ended = 1 WHERE nonce = ?", nonce)

    def open_orders(self) -> tuple[str, ...]:
        """Return the envelopes (base64) of orders under way, oldest first."""
        rows = self.database.read("SELECT envelope FROM volume_orders WHERE NOT ended ORDER BY number")
        return tuple(str(row[0]) for row in rows)

    def knows_order(self, envelope: str) -> bool:
        """Tell whether exactly these bytes were taken before."""
        return bool(self.database.read("SELECT 1 FROM volume_orders WHERE envelope = ?", envelope))

    def note_resting(self, instance: str) -> None:
        """From now on this instance stands still, so that its data can be copied."""
        self.database.write("INSERT OR IGNORE INTO resting VALUES (?)", instance)

    def resting(self) -> tuple[str, ...]:
        """Return the instances that stand still, or did when the executor ended."""
        return tuple(str(row[0]) for row in self.database.read("SELECT instance FROM resting ORDER BY instance"))

    def forget_resting(self, instance: str) -> None:
        """It goes on, or is gone."""
        self.database.write("DELETE FROM resting WHERE instance = ?", instance)

    def snapshots(self, service: str = "", *, txn: int = 0) -> tuple[SnapshotRow, ...]:
        """Return snapshots of a service ("" = of all) and of one transaction (0 = of all), oldest first."""
        rows = self.database.read(
            f"SELECT {_SNAPSHOT} FROM snapshots WHERE ? IN ('', service) AND ? IN (0, txn)"
            " ORDER BY taken_at, service, volume, replica, name",
            *(service, txn),
        )
        return tuple(_snapshot(row) for row in rows)

    def begin_snapshot(self, row: SnapshotRow) -> None:
        """Journal a snapshot before it is taken; one that is known stays as it is."""
        fields = replace(row, whole=False)
        values = [getattr(fields, name) for name in _SNAPSHOT.split(", ")]
        self.database.write(
            f"INSERT OR IGNORE INTO snapshots ({_SNAPSHOT}) VALUES ({', '.join('?' * len(values))})",
            *(value.value if isinstance(value, SnapshotKind) else value for value in values),
        )

    def note_whole(self, row: SnapshotRow) -> None:
        """The driver has said that the snapshot is there."""
        self.database.write(
            "UPDATE snapshots SET whole = 1 WHERE service = ? AND replica = ? AND volume = ? AND name = ?",
            *(row.service, row.replica, row.volume, row.name),
        )

    def forget_snapshot(self, row: SnapshotRow) -> None:
        """The snapshot is gone."""
        self.database.write(
            "DELETE FROM snapshots WHERE service = ? AND replica = ? AND volume = ? AND name = ?",
            *(row.service, row.replica, row.volume, row.name),
        )


def _fields(names: str, row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(names.split(", "), row, strict=True))


def _snapshot(row: tuple[Any, ...]) -> SnapshotRow:
    fields = _fields(_SNAPSHOT, row)
    return SnapshotRow(**{**fields, "kind": SnapshotKind(fields["kind"]), "whole": bool(fields["whole"])})
