"""Decayed objects of a node's store: found by hashing them again, replaced in the store and in every tree of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from nebh.host.throttle import Throttle
from nebh.images.objects import read_chunks, temporary_name
from nebh.images.store import NodeStore
from nebh.images.trees import FIXED_TIME
from nebh.model.errors import BadInput, NotFound
from nebh.model.names import is_digest

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Decayed:
    """An object that is not what its name says. size: as manifests have it, -1 where none names it."""

    digest: str
    mode: int
    size: int


def find_decayed(store: NodeStore, throttle: Throttle) -> Iterator[Decayed]:
    """Yield every object whose bytes are not its own any more, reading as fast as `throttle` lets. What was written
    meanwhile is looked at next time."""
    for name in sorted(path.name for path in store.objects.glob("*/*") if is_digest(path.name[:64])):
        digest, _, mode = name.partition(".")
        hasher = hashlib.sha256()
        try:
            descriptor = os.open(store.objects / digest[:2] / name, _READ)
        except FileNotFoundError:
            continue  # collected meanwhile
        for chunk in throttle.passing(read_chunks(descriptor)):
            hasher.update(chunk)
        if hasher.hexdigest() != digest:
            yield Decayed(digest, int(mode, 8), _size_of(store, digest))


def _size_of(store: NodeStore, digest: str) -> int:
    for path in store.manifests.glob("*.json"):
        with contextlib.suppress(NotFound, BadInput):
            for entry in store.manifest(path.stem).entries:
                if entry.sha256 == digest:
                    return entry.size
    return -1


def mend(store: NodeStore, one: Decayed, chunks: Iterable[bytes]) -> int:
    """Replace a decayed object by good bytes, in the store and under every name it has in a tree; return how many names.
    Programs that have the old file open keep it until they open it again. Raises BadInput for bytes that are not the
    object's; then nothing changes."""
    store.put(one.digest, one.size, chunks, mode=one.mode)
    source = store.objects / one.digest[:2] / f"{one.digest}.{one.mode:03o}"
    count = 0
    for tree in sorted(store.trees.iterdir()):
        if not is_digest(tree.name):
            continue
        with contextlib.suppress(NotFound):
            for entry in store.manifest(tree.name).entries:
                if entry.sha256 == one.digest and entry.mode == one.mode and entry.size:
                    _replace(store, tree.name, entry.path, str(source))
                    count += 1
    store.sync()
    return count


def _replace(store: NodeStore, tree: str, path: str, source: str) -> None:
    """Let a name in a tree lead to `source`, in one step; the folder's time stays."""
    with contextlib.ExitStack() as stack:
        folder = os.open(store.trees / tree, _FOLDER)
        stack.callback(os.close, folder)
        *above, last = path.split("/")
        for part in above:
            folder = os.open(part, _FOLDER, dir_fd=folder)
            stack.callback(os.close, folder)
        beside = temporary_name()
        mode = os.fstat(folder).st_mode & 0o777
        os.fchmod(folder, 0o700)
        try:
            os.link(source, beside, dst_dir_fd=folder, follow_symlinks=False)
            os.rename(beside, last, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.fchmod(folder, mode)
            os.utime(folder, (FIXED_TIME, FIXED_TIME))
