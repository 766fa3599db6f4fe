"""What containers print: conmon's k8s-file format, rotated here without losing a line, read by cursor.

conmon replaces its log by a new one after every `piece` bytes (it counts over a reopening by its control FIFO too, so
that the two together lose lines). So the file has a second name, `ctr.log.live`: whatever replaces `ctr.log`, the old
one is still there when we look next.

A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; P = the line goes on. The newest file is `ctr.log`, older
ones `ctr.log.1`, `ctr.log.2`... A cursor is `<time of the file's first line>@<offset>`: the first line names the file
wherever rotation has moved it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

NAME = "ctr.log"
_LIVE = "ctr.log.live"
_FIRST_LINE = 128
_CHUNK = 1 << 20
_LONGEST = 1 << 16


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
    """How a container's share of log bytes is split: conmon begins a new file every `piece` bytes; of older files,
    `keep` with at most `keep_bytes` stay."""

    piece: int
    keep: int
    keep_bytes: int


def share_of(*, log_bytes: int, log_files: int) -> LogShare:
    """Split `log_bytes` so that all files together never exceed them."""
    piece = max(4096, log_bytes // (log_files + 1))  # one more: conmon may have begun a file that we have not seen
    return LogShare(piece=piece, keep=max(1, log_files - 1), keep_bytes=max(0, log_bytes - 2 * piece))


def rotate(folder: Path, *, share: LogShare) -> int:
    """Number what conmon has replaced, drop what is over the share. Returns bytes now kept.

    No line is lost as long as this is called once per `piece` bytes; otherwise whole files are missing in between.
    """
    current, live = folder / NAME, folder / _LIVE
    if _inode(live) not in (None, _inode(current)):
        _number_live(folder)
    if _inode(live) is None:
        with contextlib.suppress(OSError):  # there is no log yet
            live.hardlink_to(current)
    older = 0
    for position, (_, path) in enumerate(_older(folder)):
        older += _size(path)
        if position >= share.keep or older > share.keep_bytes:
            older -= _size(path)
            path.unlink()
    return sum(_size(path) for path in _files(folder))


def _number_live(folder: Path) -> None:
    for number, path in reversed(_older(folder)):
        path.rename(folder / f"{NAME}.{number + 1}")
    (folder / _LIVE).rename(folder / f"{NAME}.1")


def read_page(folder: Path, *, cursor: str, limit: int) -> LogPage:
    """Return at most `limit` lines from `cursor` on ("" = the oldest kept) and the cursor after them."""
    files = _files(folder)
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
    for path in reversed(_files(folder)):
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
        if line is not None and line.partial:
            whole, end, last = _join(part, line, end)
            if whole.partial and last and lines:
                break  # its rest is about to come: next time, unless it is all there is
            line = whole
        if line is not None:
            lines.append(line)
        used = end + 1
    if used == 0 and len(part) == _CHUNK:
        return len(part)  # a MiB without an end of line is not conmon's
    return used


def _join(part: bytes, line: LogLine, end: int) -> tuple[LogLine, int, bool]:
    """Return a line with what goes on directly behind it, where that ends, and whether nothing is behind it yet:
    conmon cuts lines where its buffer ends. Partial when its end is not there yet, or other output lies between."""
    texts = [line.text]
    size = len(line.text)
    while size < _LONGEST and (after := part.find(b"\n", end + 1)) >= 0:
        more = _parse(part[end + 1 : after])
        if more is None or more.stream != line.stream:
            break
        texts.append(more.text)
        size += len(more.text)
        end = after
        if not more.partial:
            return replace(line, text="".join(texts), partial=False), end, False
    return replace(line, text="".join(texts)), end, part.find(b"\n", end + 1) < 0


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


def _files(folder: Path) -> list[Path]:
    """Return all files, oldest first, each once whatever names it has."""
    found: dict[int, Path] = {}
    for path in (*(path for _, path in reversed(_older(folder))), folder / _LIVE, folder / NAME):
        inode = _inode(path)
        if inode is not None:
            found.setdefault(inode, path)
    return list(found.values())


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


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
