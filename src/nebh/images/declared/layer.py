"""One source of a declared image as a layer: entries, contents in the cache, and what the contents ask for.

A source is read once: its layer is kept in the cache under the digest of its bytes. Reading happens in a confined
child, as for imports; nothing is created at a path that a source names.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nebh.host.confine import Confinement, ordinary_user, run_confined
from nebh.host.files import read_bounded, write_atomic
from nebh.images.cache import ImageCache, ScratchSink
from nebh.images.declared.facts import VERSION, FileFacts, is_telling, read_facts
from nebh.images.intake import Intake, Item
from nebh.images.layers import ImageTree
from nebh.images.manifest import find_path_problem, find_target_problem
from nebh.images.report import ImportLimits
from nebh.model.errors import BadInput, Broken, Failed, NebhError
from nebh.model.image import EntryType, LintFinding, TreeEntry
from nebh.model.names import is_digest
from nebh.wire import codec

_LIMITS: Final = ImportLimits()
_MOST: Final = 256 << 20
_MOST_FACTS: Final = 512 << 20

Read = Callable[[Intake], Iterator[Item]]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """entries: sorted by path, modes 755 and 644. facts: by SHA-256. findings: setuid bits and capabilities that were
    dropped."""

    entries: tuple[TreeEntry, ...] = ()
    facts: dict[str, FileFacts] = field(default_factory=dict)
    findings: tuple[LintFinding, ...] = ()

    def digest(self) -> str:
        """Return what names, modes and contents hash to."""
        return hashlib.sha256(codec.encode(self.entries)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Answer:
    layer: Layer | None = None
    error: str = ""
    hint: str = ""
    failed: bool = False


class LayerCache:
    """Layers by key below ROOT/layers of an image cache; contents are the cache's objects."""

    def __init__(self, cache: ImageCache, *, limits: ImportLimits = _LIMITS) -> None:
        self.cache, self.limits = cache, limits
        self._folder = cache.root / "layers"
        self._folder.mkdir(exist_ok=True)

    def known(self, kind: str, digest: str) -> Layer | None:
        """Return a layer that was read before and whose contents are all here."""
        path = self._path(kind, digest)
        try:
            layer = codec.decode_loose(read_bounded(path, limit=_MOST), Layer, what="a kept layer", limit=_MOST)
        except (OSError, BadInput):
            return None
        contents = (entry.sha256 for entry in layer.entries if entry.size)
        if self.cache.objects.missing(contents):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used: see `remove_older`
        return layer

    def read(self, read: Read, *, what: str, kind: str = "", digest: str = "", confined: bool = True) -> Layer:
        """Read a source; with `kind` and `digest` (of its bytes) keep the layer. confined: all that `read` needs is
        open already. Raises BadInput naming the path of what cannot be in an image, Failed."""
        if kind and (layer := self.known(kind, digest)) is not None:
            return layer
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(self.cache.scratch())
            user = ordinary_user() if confined else None
            scratch.give_to(user)
            sink = stack.enter_context(scratch.sink())
            limits = self.limits
            ended = run_confined(
                lambda: codec.encode(_work(read, what, sink, limits)),
                confinement=Confinement(cpu=limits.cpu, memory=limits.memory, file=limits.bytes, user=user),
                limit=_MOST,
            )
            if ended.signal in {signal.SIGXCPU, signal.SIGKILL}:
                raise BadInput(f"cannot read {what}: it takes more than {limits.cpu} s of CPU or too much memory")
            if ended.signal or ended.status:
                raise Failed(f"cannot read {what}: the reader ended with {ended.signal or ended.status}")
            layer = _check(ended.answer, what)
            scratch.adopt(self.cache.objects)
        if self.cache.objects.missing(entry.sha256 for entry in layer.entries if entry.size):
            raise Broken(f"cannot keep {what}: its reader did not store every content")
        if kind:
            write_atomic(self._path(kind, digest), codec.encode(layer), durable=False)
        return layer

    def used(self) -> Iterator[str]:
        """Yield the digests of all contents that kept layers name."""
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, BadInput):
                layer = codec.decode_loose(read_bounded(path, limit=_MOST), Layer, what="a kept layer", limit=_MOST)
                yield from (entry.sha256 for entry in layer.entries if entry.size)

    def remove_older(self, *, than: float) -> int:
        """Remove layers that were neither read nor used since `than` (Unix seconds); return how many. Contents stay."""
        removed = 0
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < than:
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, kind: str, digest: str) -> Path:
        assert is_digest(digest)
        return self._folder / f"{kind}-{digest}-{VERSION}.json"


def even_mode(entry_type: EntryType, mode: int) -> int:
    """Return the mode that a declared image gives: whose files they were and what the umask was makes no difference."""
    if entry_type is EntryType.LINK:
        return 0o777
    return 0o755 if entry_type is EntryType.DIRECTORY or mode & 0o111 else 0o644


def _work(read: Read, what: str, sink: ScratchSink, limits: ImportLimits) -> _Answer:
    intake = Intake(what=what, sink=sink, limits=limits)
    try:
        tree = ImageTree(intake)
        tree.add_layer(read(intake), whiteouts=False)
        entries = tuple(
            TreeEntry(
                path=one.path,
                type=one.type,
                mode=even_mode(one.type, one.mode),
                size=one.size,
                target=one.target,
                sha256=one.sha256,
            )
            for one in tree.entries()
        )
        return _Answer(layer=Layer(entries=entries, facts=_read_facts(entries, sink), findings=tuple(intake.findings)))
    except NebhError as error:
        return _Answer(error=error.message, hint=error.hint, failed=not isinstance(error, BadInput))
    except MemoryError:
        return _Answer(error=f"cannot read {what}: it needs too much memory")
    except OSError as error:
        return _Answer(error=f"cannot read {what}: {error.strerror or error}", failed=True)
    except Exception as error:  # the parent must hear of it: it parsed hostile bytes
        return _Answer(error=f"cannot read {what}: {type(error).__name__}: {error}", failed=True)


def _read_facts(entries: tuple[TreeEntry, ...], sink: ScratchSink) -> dict[str, FileFacts]:
    facts: dict[str, FileFacts] = {}
    for entry in entries:
        if entry.type is not EntryType.FILE or entry.sha256 in facts or not 4 < entry.size < _MOST_FACTS:
            continue
        descriptor = sink.open(entry.sha256)
        try:
            if is_telling(entry.path, os.pread(descriptor, 4, 0)):
                with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
                    found = read_facts(entry.path, bytes(view))
                if found:
                    facts[entry.sha256] = found
        finally:
            os.close(descriptor)
    return facts


def _check(data: bytes, what: str) -> Layer:
    """Return the child's layer when its structure is sound: the child parsed hostile bytes."""
    try:
        answer = codec.decode_loose(data, _Answer, what="the reader's answer", limit=_MOST)
    except BadInput as error:
        raise Broken(error.message) from error
    layer = answer.layer
    if layer is None:
        raise (Failed if answer.failed else BadInput)(answer.error, hint=answer.hint)
    for one in layer.entries:
        problem = find_path_problem(one.path)
        if one.type is EntryType.LINK:
            problem = problem or find_target_problem(one.target)
        if one.type is EntryType.FILE and not is_digest(one.sha256):
            problem = problem or "its content has no SHA-256"
        if problem:
            raise Broken(f"cannot keep {what}: {one.path[:200]!r}: {problem}")
    return layer
