"""The importer's door: every name, mode and content of a source passes here, is bounded, checked and counted.

Nothing is ever created at a path that a source names: contents go to a sink by their hash, names into an `ImageTree`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from nebh.images.manifest import EMPTY_SHA256, KERNEL_DIRECTORIES, find_path_problem, find_target_problem
from nebh.images.report import ImportLimits
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, LintFinding, LintRule
from nebh.model.quantities import render_size

WHITEOUT = ".wh."
_SETID = 0o6000
_STICKY = 0o1000


class Sink(Protocol):
    """Keeps contents by their hash."""

    def store(self, chunks: Iterable[bytes], *, size: int) -> str:
        """Keep exactly the bytes of `chunks`, `size` of them, and return their hex SHA-256."""
        ...

    def spool(self, chunks: Iterable[bytes]) -> int:
        """Keep `chunks` in a file without a name and return its descriptor, which the caller closes."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One checked entry of a source, in its order. `type` None is a hard link to the path `target`."""

    path: str
    type: EntryType | None
    mode: int = 0o777
    size: int = 0
    target: str = ""
    sha256: str = ""


class Intake:
    """Checks and counts for one import, over all its layers."""

    def __init__(self, *, what: str, sink: Sink, limits: ImportLimits) -> None:
        """`what` names the source in errors."""
        self.what, self.sink, self.limits = what, sink, limits
        self.findings: list[LintFinding] = []
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []
        self._entries = 0
        self._bytes = 0

    def refuse(self, path: str, problem: str, *, hint: str = "") -> BadInput:
        """Return the error for one entry."""
        return BadInput(f"cannot import {self.what}: {path[:300]!r}: {problem}", hint=hint)

    def name(self, raw: bytes) -> str:
        """Count an entry and return its path, made `canonical`."""
        self._entries += 1
        if self._entries > self.limits.entries:
            raise BadInput(
                f"cannot import {self.what}: it has more than {self.limits.entries} entries",
                hint="raise the limit only for an image that you trust",
            )
        return self.canonical(raw)

    def canonical(self, raw: bytes) -> str:
        """Return a source's path as a canonical one; "" is the root itself. Leading `./` and a trailing `/` go; raises
        BadInput for whatever else is not canonical."""
        try:
            path = raw.decode()
        except UnicodeDecodeError:
            raise self.refuse(raw.decode(errors="backslashreplace"), "the path is not UTF-8") from None
        while path.startswith("./"):
            path = path[2:]
        path = path.removesuffix("/")
        if path in ("", ".") and not raw.startswith(b"/"):
            return ""
        problem = find_path_problem(path) if path else "the path is absolute"
        if problem:
            raise self.refuse(path, problem)
        return path

    def is_kept(self, path: str) -> bool:
        """Tell whether an entry is part of the image: what stands below /dev, /proc, /sys is left out and counted."""
        top, slash, _ = path.partition("/")
        if slash and top in KERNEL_DIRECTORIES:
            self.counts[f"entries below /{top} left out"] += 1
            return False
        return True

    def directory(self, path: str, *, mode: int) -> Item:
        """Return the item of a directory."""
        if mode & _SETID:
            self.counts["directories lost their setuid or setgid bit"] += 1
        return Item(path, EntryType.DIRECTORY, self._mode(mode))

    def link(self, path: str, *, target: bytes) -> Item:
        """Return the item of a symbolic link. Raises BadInput for a target that is not text."""
        try:
            text = target.decode()
        except UnicodeDecodeError:
            raise self.refuse(path, "the link's target is not UTF-8") from None
        problem = find_target_problem(text)
        if problem:
            raise self.refuse(path, problem)
        return Item(path, EntryType.LINK, target=text)

    def file(self, path: str, *, mode: int, size: int, chunks: Iterable[bytes]) -> Item:
        """Keep a file's content and return its item. Raises BadInput over a limit, before reading anything."""
        self._bytes += size
        if size > self.limits.file:
            raise self.refuse(path, f"{render_size(size)}, at most {render_size(self.limits.file)} are allowed")
        if self._bytes > self.limits.bytes:
            raise BadInput(f"cannot import {self.what}: more than {render_size(self.limits.bytes)} of content")
        if mode & _SETID:
            self.find(LintRule.SETUID, path, f"mode {mode & 0o7777:04o}: the bit was dropped, it would gain nothing")
        digest = self.sink.store(chunks, size=size) if size else EMPTY_SHA256
        return Item(path, EntryType.FILE, self._mode(mode), size, "", digest)

    def find(self, rule: LintRule, path: str, message: str) -> None:
        """Note a lint finding that no manifest can show."""
        self.findings.append(LintFinding(rule=rule, path=path, message=message))

    def owner(self, uid: int, gid: int) -> None:
        """Note an entry's owner, which becomes 0:0."""
        if uid or gid:
            self.counts["entries now belong to 0:0"] += 1

    def attribute(self, path: str, name: str) -> None:
        """Note an extended attribute, which is dropped."""
        if name == "security.capability":
            self.find(LintRule.FILE_CAPABILITY, path, "the file capability was dropped: containers have none to gain")
        else:
            self.counts[f"extended attributes {name[:64]!r} dropped"] += 1

    def report(self) -> tuple[str, ...]:
        """Return what was changed, one line each."""
        return (*self.lines, *(f"{count} {what}" for what, count in sorted(self.counts.items())))

    def _mode(self, mode: int) -> int:
        if mode & _STICKY:
            self.counts["entries lost their sticky bit"] += 1
        return mode & 0o777
