"""What containers print: conmon's k8s-file format, rotated here without losing a line, read by cursor.

A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; P = the line goes on. The newest file is `ctr.log`, older
ones `ctr.log.1`, `ctr.log.2`... A cursor is `<time of the file's first line>@<offset>`: the first line names the file
wherever rotation has moved it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

NAME = "ctr.log"
_REOPEN = b"2 0 0\n"  # conmon's control message: open the log anew
_FIRST_LINE = 128
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """time: RFC 3339 with nanoseconds, as conmon wrote it; stream: stdout | stderr; partial: the next line of the
    same stream continues this one."""

    time: str
    stream: str
    text: str
    partial: bool = False


@dataclass(frozen=True, kw_only=True)
class LogPage:
    """cursor: where to read on; lost: lines between the cursor asked for and the first one here were dropped."""

    lines: tuple[LogLine, ...]
    cursor: str
    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class LogShare:
    """How a container's share of log bytes is split: the log is rotated at `rotate_at` bytes; if it grows faster than
    we look, conmon drops it at `drop_at`; of older files, `keep` with at most `keep_bytes` stay."""

    rotate_at: int
    drop_at: int
    keep: int
    keep_bytes: int


def share_of(*, log_bytes: int, log_files: int) -> LogShare:
    """Split `log_bytes` so that all files together never exceed them."""
    piece = max(4096, log_bytes // (log_files + 2))  # files end a little over it, the newest at twice
    return LogShare(rotate_at=piece, drop_at=2 * piece, keep=log_files - 1, keep_bytes=max(0, log_bytes - 2 * piece))


def rotate(folder: Path, *, control: Path, share: LogShare) -> int:
    """Rename the log and have conmon open a new one when it is due; drop what is over the share.

    control: conmon's `ctl` FIFO in the bundle. Returns bytes now kept. Nothing is lost: until conmon has opened the
    new file it writes into the renamed one.
    """
    current = folder / NAME
    if _size(current) >= share.rotate_at:
        older = _older(folder)
        for number, path in reversed(older):
            path.rename(folder / f"{NAME}.{number + 1}")
        current.rename(folder / f"{NAME}.1")
        with contextlib.suppress(OSError):  # conmon has ended: the renamed file is complete
            _tell(control)
    kept = 0
    for position, (_, path) in enumerate(_older(folder)):
        kept += _size(path)
        if position >= share.keep or kept > share.keep_bytes:
            kept -= _size(path)
            path.unlink()
    return kept + _size(current)


def read_page(folder: Path, *, cursor: str, limit: int) -> LogPage:
    """Return at most `limit` lines from `cursor` on ("" = the oldest kept) and the cursor after them."""
    files = [*(path for _, path in reversed(_older(folder))), folder / NAME]
    position, offset, lost = _locate(files, cursor)
    lines: list[LogLine] = []
    for index in range(position, len(files)):
        first = _first_time_of(files[index])
        if not first:
            continue
        offset = _drain(files[index], offset, lines, limit)
        if any(map(_first_time_of, files[index + 1 :])):
            # a newer file has begun, so this one is complete now: what came in between must not be skipped
            offset = _drain(files[index], offset, lines, limit)
        cursor = f"{first}@{offset}"
        if len(lines) >= limit:
            break
        offset = 0
    return LogPage(lines=tuple(lines), cursor=cursor, lost=lost)


def tail_cursor(folder: Path, *, lines: int) -> str:
    """Return the cursor from which `lines` lines (at most; of the last MiB of the newest file that has any) are left."""
    files = [folder / NAME, *(path for _, path in _older(folder))]
    for path in files:
        first = _first_time_of(path)
        if not first:
            continue
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _CHUNK)
            file.seek(start)
            data = file.read()
        end = data.rfind(b"\n") + 1
        position = end
        for _ in range(lines):
            if position <= 0:
                break
            position = data.rfind(b"\n", 0, position - 1) + 1
        return f"{first}@{start + position}"
    return ""


def _drain(path: Path, offset: int, lines: list[LogLine], limit: int) -> int:
    """Add whole lines of a file from `offset` on, until there are `limit`; return the offset after them."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        while len(lines) < limit and (part := file.read(_CHUNK)):
            used = _take(part, lines, limit)
            if not used:
                break
            offset += used
            file.seek(offset)
    return offset


def _take(part: bytes, lines: list[LogLine], limit: int) -> int:
    used = 0
    while len(lines) < limit and (end := part.find(b"\n", used)) >= 0:
        line = _parse(part[used:end])
        if line is not None:
            lines.append(line)
        used = end + 1
    if used == 0 and len(part) == _CHUNK:
        return len(part)  # a MiB without an end of line is not conmon's
    return used


def _parse(line: bytes) -> LogLine | None:
    words = line.split(b" ", 3)
    if len(words) != 4:
        return None
    time, stream, tag, text = (word.decode(errors="replace") for word in words)
    return LogLine(time=time, stream=stream, text=text, partial=tag == "P")


def _locate(files: list[Path], cursor: str) -> tuple[int, int, bool]:
    """Return (position in files, offset, whether lines were lost) of a cursor."""
    name, _, offset = cursor.rpartition("@")
    if not name or not offset.isdigit():
        return 0, 0, False
    for position, path in enumerate(files):
        first = _first_time_of(path)
        if first == name:
            return position, int(offset), False
        if first > name:
            return position, 0, True
    return len(files), 0, False


def _first_time_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head, space, _ = file.read(_FIRST_LINE).partition(b" ")
    except OSError:
        return ""
    return head.decode(errors="replace") if space else ""


def _older(folder: Path) -> list[tuple[int, Path]]:
    """Return the rotated files, newest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            number = path.name.removeprefix(f"{NAME}.")
            if number.isdigit():
                found.append((int(number), path))
    return sorted(found)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tell(control: Path) -> None:
    descriptor = os.open(control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(descriptor, _REOPEN)
    finally:
        os.close(descriptor)
