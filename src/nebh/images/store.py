"""The node's image store: objects with exact modes, and root file systems as trees of hard links to them.

ROOT/objects/ab/<sha256>.<mode>   one inode per content and mode; mode exact, time fixed
ROOT/manifests/<digest>.json      canonical bytes of manifests
ROOT/trees/<digest>/              materialised images; present means whole
ROOT/manifests/<digest>.unsynced  its files may not be on the disk yet
Names that start with `.` are unfinished work; `sweep` removes them.

Empty files have no object: each tree gets its own, for they would all be one inode and meet the link limit first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from nebh.host.disk import sync_filesystem
from nebh.host.files import read_bounded, write_atomic
from nebh.images import trees
from nebh.images.manifest import MAX_MANIFEST, decode_manifest, digest_manifest
from nebh.images.objects import TEMPORARY, hash_file, read_chunks, temporary_name, write_checked
from nebh.model.errors import BadInput, NotFound
from nebh.model.image import TreeEntry, TreeManifest
from nebh.model.names import is_digest

_OBJECT: Final = re.compile(r"[0-9a-f]{64}\.[0-7]{3}\Z")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, kw_only=True)
class Missing:
    """items: (digest, size) of objects that a manifest needs and the store lacks under every mode, once each."""

    items: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """Sum of the sizes."""
        return sum(size for _, size in self.items)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """objects, trees, manifests: counts. bytes: sum of the objects' lengths."""

    objects: int
    bytes: int
    trees: int
    manifests: int


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a garbage collection removed; bytes counts objects that no other tree's link keeps alive."""

    objects: int
    bytes: int
    trees: int
    manifests: int


class NodeStore:
    """For one process (the executor) and all its threads; other processes may read."""

    def __init__(self, root: Path) -> None:
        """Use `root`, made when it does not exist."""
        self.objects, self.manifests, self.trees = root / "objects", root / "manifests", root / "trees"
        for path in (self.objects, self.manifests, self.trees):
            path.mkdir(parents=True, exist_ok=True)
        # Objects change their names and go only while this is held, so no tree is built from names that move.
        self._names_lock = threading.RLock()

    # -- manifests

    def keep_manifest(self, digest: str, data: bytes) -> None:
        """Keep a manifest's canonical bytes, durably. Raises BadInput when they are not valid or not `digest`."""
        if digest_manifest(data) != digest:
            raise BadInput(f"cannot keep the manifest of image {digest[:80]}: the bytes are another's")
        decode_manifest(data)
        write_atomic(self._manifest_path(digest), data, mode=0o644)

    def read_manifest(self, digest: str) -> bytes | None:
        """Return a kept manifest's bytes, or None when there are none or they are not `digest` any more."""
        try:
            data = read_bounded(self._manifest_path(digest), limit=MAX_MANIFEST)
        except OSError:
            return None
        return data if digest_manifest(data) == digest else None

    def manifest(self, digest: str) -> TreeManifest:
        """Return a kept manifest. Raises NotFound."""
        data = self.read_manifest(digest)
        if data is None:
            raise NotFound(f"cannot read the manifest of image {digest[:80]}: it is not here", hint="fetch it again")
        return decode_manifest(data)

    # -- objects

    def missing(self, manifest: TreeManifest) -> Missing:
        """Return the objects to fetch. An object that is here under another mode is not missing."""
        wanted = {entry.sha256: entry.size for entry in manifest.entries if entry.size}
        here = {name[:64] for name in self._names({digest[:2] for digest in wanted})}
        return Missing(items=tuple((digest, size) for digest, size in wanted.items() if digest not in here))

    def put(self, digest: str, size: int, chunks: Iterable[bytes], *, mode: int = 0o644) -> None:
        """Store an object: hashes while it writes, stops at `size`, appears only when its hash is right. Its mode is
        settled by `materialise`. Durable after `sync`. Raises BadInput for wrong bytes; then nothing is kept."""
        if not is_digest(digest) or not 0 <= mode <= 0o777:
            raise BadInput(f"cannot store object {digest[:80]!r} with mode {mode:o}: not a SHA-256 and permission bits")
        path = self.objects / digest[:2]
        path.mkdir(exist_ok=True)
        folder = os.open(path, _FOLDER)
        try:
            _write_object(folder, f"{digest}.{mode:03o}", chunks, digest=digest, size=size, mode=mode)
        finally:
            os.close(folder)

    def open_object(self, digest: str) -> int:
        """Return a descriptor of an object under any mode, which the caller closes. Raises NotFound."""
        for name in self._names({digest[:2]}):
            if name.startswith(digest) and is_digest(digest):
                return os.open(self.objects / digest[:2] / name, _READ)
        raise NotFound(f"cannot read object {digest[:80]}: it is not here")

    def expect(self, digest: str) -> None:
        """Remember durably, before the first object of an image is written, that they are not durable until `sync`:
        a file system may keep a name over a power cut and lose what the file held."""
        write_atomic(self._mark_path(digest), b"")

    def sync(self) -> None:
        """Make everything stored so far durable: one syncfs, however many objects."""
        marks = self._marks()
        descriptor = os.open(self.objects, _FOLDER)
        try:
            sync_filesystem(descriptor)
        finally:
            os.close(descriptor)
        for path in marks:
            path.unlink(missing_ok=True)

    def _marks(self) -> list[Path]:
        return list(self.manifests.glob("*.unsynced"))

    # -- trees

    def tree(self, digest: str) -> Path:
        """Return where an image's tree stands or would stand."""
        return self.trees / digest

    def has_tree(self, digest: str) -> bool:
        """Tell whether an image is materialised, whole."""
        return is_digest(digest) and self.tree(digest).is_dir()

    def is_durable(self, digest: str) -> bool:
        """Tell whether an image is materialised and on the disk."""
        return self.has_tree(digest) and not self._mark_path(digest).exists()

    def materialise(self, digest: str, manifest: TreeManifest, *, durable: bool = True) -> Path:
        """Return the image's tree, built when it is not there; it appears by one rename, whole and (with `durable`)
        on disk together with all objects. Raises NotFound when objects are missing. Repeatable after any crash."""
        if not is_digest(digest):
            raise BadInput(f"cannot build image {digest[:80]!r}: it is not a SHA-256")
        with self._names_lock:
            if not self.has_tree(digest):
                lacking = self.missing(manifest).items
                if lacking:
                    raise NotFound(f"cannot build image {digest[:12]}: {len(lacking)} objects are missing")
                self._settle_modes(manifest)
                self._build(digest, manifest, durable=durable)
        return self.tree(digest)

    def _build(self, digest: str, manifest: TreeManifest, *, durable: bool) -> None:
        name = temporary_name()
        with contextlib.ExitStack() as stack:
            parent = _open_folder(stack, self.trees)
            objects = _open_folder(stack, self.objects)
            try:
                trees.build(manifest, parent=parent, name=name, link=partial(self._link, objects))
                if durable:
                    # Before the name appears: a tree that is there is on disk, with its objects.
                    sync_filesystem(parent)
                os.rename(name, digest, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    trees.remove(name, parent=parent)
                raise
            if durable:
                os.fsync(parent)

    def remove_tree(self, digest: str) -> None:
        """Remove an image's tree, not its objects; one that is not there is no error. Nothing may be mounted on it."""
        name = temporary_name()
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
            parent = _open_folder(stack, self.trees)
            os.rename(digest, name, src_dir_fd=parent, dst_dir_fd=parent)
            trees.remove(name, parent=parent)

    def verify_tree(self, manifest: TreeManifest, *, digest: str) -> tuple[str, ...]:
        """Return every difference between an image's tree and its manifest, contents re-hashed; () means sound."""
        return trees.differences(manifest, self.tree(digest))

    # -- upkeep

    def scrub(self) -> tuple[str, ...]:
        """Re-hash all objects; return the names of those whose bytes or mode are not what they say."""
        return tuple(name for name in self._names() if not _is_sound(self.objects / name[:2] / name))

    def drop_object(self, digest: str) -> None:
        """Remove an object under every mode, so that `missing` asks for it again. Trees keep their own links."""
        for name in self._names({digest[:2]}):
            if name.startswith(digest):
                (self.objects / name[:2] / name).unlink(missing_ok=True)

    def collect(self, roots: Iterable[str]) -> Collected:
        """Remove trees, manifests and objects that no root (a manifest digest) needs. Raises NotFound, with nothing
        removed, when a root's manifest cannot be read: what it needs would be unknown."""
        with self._names_lock:
            return self._collect(set(roots))

    def _collect(self, keep: set[str]) -> Collected:
        wanted = {
            f"{entry.sha256}.{entry.mode:03o}"
            for digest in keep
            for entry in self.manifest(digest).entries
            if entry.size
        }
        old_trees = [name for name in _list(self.trees) if is_digest(name) and name not in keep]
        for name in old_trees:
            self.remove_tree(name)
        old_manifests = [path for path in self.manifests.glob("*.json") if path.stem not in keep]
        for path in (*old_manifests, *(mark for mark in self._marks() if mark.stem not in keep)):
            path.unlink(missing_ok=True)
        count = size = 0
        for name in self._names():
            if name not in wanted:
                path = self.objects / name[:2] / name
                state = path.stat()
                count, size = count + 1, size + (state.st_size if state.st_nlink == 1 else 0)
                path.unlink()
        return Collected(objects=count, bytes=size, trees=len(old_trees), manifests=len(old_manifests))

    def sweep(self) -> int:
        """Remove what a crash left unfinished; nobody may be writing. Return how many things."""
        count = 0
        for path in self.objects.glob(f"*/{TEMPORARY}*"):
            path.unlink(missing_ok=True)
            count += 1
        for name in self._names():
            # A crash between the two steps of settling a mode.
            path, mode = self.objects / name[:2] / name, int(name[65:], 8)
            if path.stat().st_mode & 0o7777 != mode:
                path.chmod(mode)
                count += 1
        for path in self.manifests.glob(".*"):
            path.unlink(missing_ok=True)
            count += 1
        with contextlib.ExitStack() as stack:
            parent = _open_folder(stack, self.trees)
            for path in self.trees.glob(f"{TEMPORARY}*"):
                trees.remove(path.name, parent=parent)
                count += 1
        return count + self._distrust()

    def _distrust(self) -> int:
        """Look at every file that a power cut may have emptied; what is sound is made durable."""
        count, marks = 0, self._marks()
        for path in marks:
            digest = path.stem
            data = self.read_manifest(digest)
            if data is None:
                continue
            manifest = decode_manifest(data)
            wanted = {entry.sha256 for entry in manifest.entries if entry.size}
            for name in self._names({one[:2] for one in wanted}):
                if name[:64] in wanted and not _is_sound(self.objects / name[:2] / name):
                    (self.objects / name[:2] / name).unlink()
                    count += 1
            if self.has_tree(digest) and self.verify_tree(manifest, digest=digest):
                self.remove_tree(digest)
                count += 1
        if marks:
            self.sync()
        return count

    def free_bytes(self) -> int:
        """Return the bytes that this user may still write on the store's file system."""
        state = os.statvfs(self.objects)
        return state.f_bavail * state.f_frsize

    def usage(self) -> Usage:
        """Return counts and bytes of what is kept."""
        sizes = [(self.objects / name[:2] / name).stat().st_size for name in self._names()]
        return Usage(
            objects=len(sizes),
            bytes=sum(sizes),
            trees=sum(1 for name in _list(self.trees) if is_digest(name)),
            manifests=sum(1 for _ in self.manifests.glob("*.json")),
        )

    # -- parts

    def _names(self, buckets: set[str] | None = None) -> Iterator[str]:
        """Yield object names `<sha256>.<mode>` of some or all buckets."""
        for bucket in sorted(_list(self.objects) if buckets is None else buckets):
            with contextlib.suppress(FileNotFoundError):
                yield from (name for name in _list(self.objects / bucket) if _OBJECT.match(name))

    def _settle_modes(self, manifest: TreeManifest) -> None:
        """Make every wanted (SHA-256, mode) exist from what is here under another mode."""
        wanted = {f"{entry.sha256}.{entry.mode:03o}": entry for entry in manifest.entries if entry.size}
        here = set(self._names({name[:2] for name in wanted}))
        lacking = [(name, entry) for name, entry in wanted.items() if name not in here]
        others: dict[str, str] = {}
        if lacking:
            others = {name[:64]: name for name in sorted(here)}
        for name, entry in lacking:
            other = others[entry.sha256]
            folder = self.objects / name[:2]
            if other in wanted or (folder / other).stat().st_nlink > 1:
                self.put(entry.sha256, entry.size, read_chunks(os.open(folder / other, _READ)), mode=entry.mode)
            else:
                # Fetched for this image under the default mode, and in use nowhere.
                (folder / other).chmod(entry.mode)
                (folder / other).rename(folder / name)
                others[entry.sha256] = name

    def _mark_path(self, digest: str) -> Path:
        return self.manifests / f"{digest}.unsynced"

    def _manifest_path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise BadInput(f"cannot look up image {digest[:80]!r}: it is not a SHA-256")
        return self.manifests / f"{digest}.json"

    def _link(self, objects: int, entry: TreeEntry, folder: int, name: str) -> None:
        source = f"{entry.sha256[:2]}/{entry.sha256}.{entry.mode:03o}"
        try:
            os.link(source, name, src_dir_fd=objects, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            # ext4 allows 65,000 names per inode: the object starts a fresh one, the old lives on in its trees.
            chunks = read_chunks(os.open(source, _READ, dir_fd=objects))
            self.put(entry.sha256, entry.size, chunks, mode=entry.mode)
            os.link(source, name, src_dir_fd=objects, dst_dir_fd=folder, follow_symlinks=False)


def _list(path: Path) -> list[str]:
    return os.listdir(path)


def _open_folder(stack: contextlib.ExitStack, path: Path) -> int:
    descriptor = os.open(path, _FOLDER)
    stack.callback(os.close, descriptor)
    return descriptor


def _write_object(folder: int, name: str, chunks: Iterable[bytes], *, digest: str, size: int, mode: int) -> None:
    beside = temporary_name()
    descriptor = write_checked(folder, beside, chunks, digest=digest, size=size)
    try:
        os.fchmod(descriptor, mode)
        os.utime(descriptor, (trees.FIXED_TIME, trees.FIXED_TIME))
    finally:
        os.close(descriptor)
    os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)


def _is_sound(path: Path) -> bool:
    digest, _, mode = path.name.partition(".")
    descriptor = os.open(path, _READ)
    try:
        return f"{os.fstat(descriptor).st_mode & 0o7777:03o}" == mode and hash_file(descriptor) == digest
    finally:
        os.close(descriptor)
