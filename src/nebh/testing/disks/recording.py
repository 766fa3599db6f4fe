"""A log of writes and flushes as a list, and the images a power cut could have left: at a flush, or between two with
any subset of what was not flushed yet."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nebh.testing.disks.fuse_disk import FLUSH, RECORD

SECTOR = 512


@dataclass(frozen=True)
class Write:
    """place: where its data begins in the log."""

    offset: int
    length: int
    place: int


@dataclass(frozen=True)
class Cut:
    """A power cut. at: length of the log then. flushed: writes that are on the disk, in order; lost or kept are the
    others. kept: those of the unflushed writes that came to the disk all the same."""

    number: int
    at: int
    flushed: int
    kept: tuple[int, ...]

    def __str__(self) -> str:
        return f"cut {self.number}: {self.flushed} writes flushed, {len(self.kept)} unflushed ones kept"


class Recording:
    """The log, read once. writes: in order. flushes: how many writes there were before each, and the log's length."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.writes: list[Write] = []
        self.flushes: list[tuple[int, int]] = []
        self._ends: list[int] = []
        end = log.stat().st_size
        place = 0
        with log.open("rb") as file:
            while place + RECORD.size <= end:
                file.seek(place)
                kind, offset, length = RECORD.unpack(file.read(RECORD.size))
                place += RECORD.size
                if kind == FLUSH:
                    self.flushes.append((len(self.writes), place))
                    continue
                self.writes.append(Write(offset, length, place))
                place += length
                self._ends.append(place)

    def cuts(self, *, after: int, count: int, rng: random.Random) -> tuple[Cut, ...]:
        """Return `count` power cuts after the log was `after` bytes long, in the order of time: half of them (at
        most one for each) at a flush with nothing else, the others between two flushes."""
        here = [index for index, (_, place) in enumerate(self.flushes) if place >= after]
        chosen = sorted(rng.sample(here, min(len(here), count // 2)))
        found = [Cut(0, self.flushes[index][1], self.flushes[index][0], ()) for index in chosen]
        gaps = [index for index in here if self._unflushed(index)]
        while gaps and len(found) < count:
            index = rng.choice(gaps)
            first, last = self._unflushed_range(index)
            upto = rng.randint(first + 1, last)
            share = rng.choice((0.2, 0.5, 0.8))
            kept = tuple(number for number in range(first, upto) if rng.random() < share)
            found.append(Cut(0, self._ends[upto - 1], first, kept))
        ordered = sorted(found, key=lambda one: (one.flushed, one.at))
        return tuple(Cut(number, one.at, one.flushed, one.kept) for number, one in enumerate(ordered))

    def _unflushed_range(self, index: int) -> tuple[int, int]:
        first = self.flushes[index][0]
        last = self.flushes[index + 1][0] if index + 1 < len(self.flushes) else len(self.writes)
        return first, last

    def _unflushed(self, index: int) -> bool:
        first, last = self._unflushed_range(index)
        return last > first

    def build(self, base: Path, target: Path, cuts: tuple[Cut, ...]) -> Iterator[Cut]:
        """Bring `target` to each cut in turn. base: the disk before the first write; it is brought forward."""
        done = 0
        with self._log.open("rb") as log, base.open("r+b", buffering=0) as disk:
            for cut in cuts:
                self._apply(log.fileno(), disk.fileno(), range(done, cut.flushed))
                done = max(done, cut.flushed)
                target.unlink(missing_ok=True)  # the last one's loop device may still be there for a moment
                _copy(base, target)
                with target.open("r+b", buffering=0) as image:
                    self._apply(log.fileno(), image.fileno(), cut.kept)
                yield cut

    def _apply(self, log: int, disk: int, numbers: range | tuple[int, ...]) -> None:
        for number in numbers:
            one = self.writes[number]
            os.pwrite(disk, os.pread(log, one.length, one.place), one.offset)


def _copy(source: Path, target: Path) -> None:
    """Copy all that is not a hole."""
    with source.open("rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        place = 0
        while place < size:
            try:
                begin = os.lseek(old.fileno(), place, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
            os.copy_file_range(old.fileno(), new.fileno(), end - begin, begin, begin)
            place = end
