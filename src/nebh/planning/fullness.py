"""When a volume or a storage is worth a word: early enough to do something, and once."""

from __future__ import annotations

from enum import StrEnum

from nebh.model.stored import StorageRoom

FILLING, FULL, FINE_AGAIN = 85, 95, 80
"""Hundredths that are used."""


class Fullness(StrEnum):
    """In rising order."""

    FINE = "fine"
    FILLING = "filling"
    FULL = "full"


def _judge(used: int, size: int, before: Fullness) -> Fullness:
    if 100 * used >= FULL * size:
        return Fullness.FULL
    if 100 * used >= FILLING * size:
        return max(Fullness.FILLING, before, key=tuple(Fullness).index)
    return before if 100 * used > FINE_AGAIN * size else Fullness.FINE


def judge_volume(*, used: int, quota: int, before: Fullness) -> Fullness:
    """Say how full a volume is; `before` stays until there is clear room again. used: bytes, -1 = unknown; quota: 0 =
    none."""
    return _judge(used, quota, before) if quota and used >= 0 else Fullness.FINE


def judge_storage(room: StorageRoom, *, before: Fullness) -> Fullness:
    """Say how full the storage is that all volumes share, with what it may still grow."""
    size = room.size + room.growth
    return _judge(room.size - room.free, size, before) if room.size else Fullness.FINE
