"""The operator's cache: objects and manifests of images that were imported on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nebh.host.files import read_bounded, write_all, write_atomic
from nebh.images.manifest import MAX_MANIFEST, decode_manifest, digest_manifest
from nebh.images.objects import CHUNK, TEMPORARY, ObjectFolder, hash_file, temporary_name
from nebh.model.errors import BadInput, Broken, NotFound
from nebh.model.image import LintFinding, TreeManifest
from nebh.model.names import is_digest
from nebh.wire import codec

# Longer than any import may take.
_STALE: Final = 86_400
_MOST_FINDINGS: Final = 64 << 20
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, kw_only=True)
class _Dropped:
    findings: tuple[LintFinding, ...] = ()


class ImageCache:
    """ROOT/objects (an ObjectFolder), ROOT/manifests/<digest>.json and, where an import dropped something,
    ROOT/findings/<digest>.json; `objects` is public for uploads."""

    def __init__(self, root: Path) -> None:
        """Use `root`, made when it does not exist."""
        self.root = root
        self.objects = ObjectFolder(root / "objects")
        self._manifests = root / "manifests"
        self._manifests.mkdir(exist_ok=True)

    def add_manifest(self, data: bytes) -> str:
        """Keep a manifest's canonical bytes; return its digest."""
        digest = digest_manifest(data)
        write_atomic(self._manifests / f"{digest}.json", data, durable=False)
        return digest

    def manifest_bytes(self, digest: str) -> bytes:
        """Return a manifest's canonical bytes. Raises NotFound; Broken when the file was changed."""
        try:
            if not is_digest(digest):
                raise FileNotFoundError(digest)
            data = read_bounded(self._manifests / f"{digest}.json", limit=MAX_MANIFEST)
        except FileNotFoundError:
            raise NotFound(
                f"cannot find image {digest[:80]!r}: it was not imported on this machine", hint="import its source"
            ) from None
        if digest_manifest(data) != digest:
            raise Broken(
                f"cannot use image {digest[:12]}: its manifest in the cache was changed", hint="import it again"
            )
        return data

    def manifest(self, digest: str) -> TreeManifest:
        """Return a valid manifest. Raises as `manifest_bytes`, BadInput when its structure is wrong."""
        return decode_manifest(self.manifest_bytes(digest))

    def remove_manifest(self, digest: str) -> None:
        """Remove an image's manifest and what was noted of it; its contents stay. None is no error."""
        (self._manifests / f"{digest}.json").unlink(missing_ok=True)
        self.keep_findings(digest, ())

    def keep_findings(self, digest: str, findings: tuple[LintFinding, ...]) -> None:
        """Note what the last import or build of an image dropped, which its manifest cannot show."""
        path = self._findings(digest)
        if findings:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, codec.encode(_Dropped(findings=findings)), durable=False)
        else:
            path.unlink(missing_ok=True)

    def findings(self, digest: str) -> tuple[LintFinding, ...]:
        """Return what `keep_findings` noted; nothing where the note is unreadable, it is for people only."""
        with contextlib.suppress(OSError, BadInput):
            data = read_bounded(self._findings(digest), limit=_MOST_FINDINGS)
            return codec.decode_loose(data, _Dropped, what="kept findings", limit=_MOST_FINDINGS).findings
        return ()

    def _findings(self, digest: str) -> Path:
        assert is_digest(digest)
        return self.root / "findings" / f"{digest}.json"

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """Hand out a folder for one import, removed at the end."""
        with self.folder() as path:
            yield Scratch(path, known=self.objects.path)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Hand out an empty folder, removed at the end; those that a killed import left a day ago go too."""
        for old in self.root.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if old.stat().st_mtime < time.time() - _STALE:
                    shutil.rmtree(old, ignore_errors=True)
        path = self.root / temporary_name()
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self) -> int:
        """Remove what broken-off imports left; nobody may be importing. Return how many things."""
        leftovers = list(self.root.glob(f"{TEMPORARY}*"))
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        return len(leftovers) + self.objects.sweep()


class Scratch:
    """Where an importer's child writes contents. It opens its folders before the child gives up the user that may
    reach them; afterwards only descriptors are used. What it left is believed only after hashing it again."""

    def __init__(self, path: Path, *, known: Path) -> None:
        """`known` is the object folder whose contents need not be written again."""
        self.path = path
        self._known = known

    def give_to(self, user: int | None) -> None:
        """Let `user` write here."""
        if user is not None:
            os.chown(self.path, user, -1)

    @contextlib.contextmanager
    def sink(self) -> Iterator[ScratchSink]:
        """Open the folders; hand out what the child stores contents with."""
        folder, known = os.open(self.path, _FOLDER), os.open(self._known, _FOLDER)
        try:
            yield ScratchSink(folder, known)
        finally:
            os.close(known)
            os.close(folder)

    def adopt(self, objects: ObjectFolder) -> None:
        """Move everything the child stored into `objects`, hashing it again. Raises Broken for anything odd."""
        folder = os.open(self.path, _FOLDER)
        try:
            for name in os.listdir(folder):
                if is_digest(name):
                    self._adopt_one(folder, name, objects)
        finally:
            os.close(folder)

    def _adopt_one(self, folder: int, name: str, objects: ObjectFolder) -> None:
        descriptor = os.open(name, _READ, dir_fd=folder)
        try:
            state = os.fstat(descriptor)
            sound = stat.S_ISREG(state.st_mode) and state.st_nlink == 1
            if not sound or hash_file(descriptor) != name:
                raise Broken(f"cannot keep imported content {name}: its bytes are not those", hint="import again")
            os.fchown(descriptor, os.geteuid(), os.getegid())
            os.fchmod(descriptor, 0o444)
        finally:
            os.close(descriptor)
        objects.adopt(name, folder=folder)


class ScratchSink:
    """Stores contents under their hash in the scratch folder, once each, and not when the cache has them."""

    def __init__(self, folder: int, known: int) -> None:
        """Both are descriptors of folders, owned by the caller."""
        self.folder, self._known = folder, known
        self._stored: set[str] = set()

    def store(self, chunks: Iterable[bytes], *, size: int) -> str:
        """Keep a content and return its SHA-256. Small ones are hashed in memory first."""
        hasher = hashlib.sha256()
        if size <= CHUNK:
            data = b"".join(chunks)
            digest = hashlib.sha256(data).hexdigest()
            if not self._has(digest):
                self._write(digest, data)
            return digest
        name = temporary_name()
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=self.folder)
        try:
            for chunk in chunks:
                hasher.update(chunk)
                write_all(descriptor, chunk)
        finally:
            os.close(descriptor)
        digest = hasher.hexdigest()
        if self._has(digest):
            os.unlink(name, dir_fd=self.folder)
        else:
            os.rename(name, digest, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            self._stored.add(digest)
        return digest

    def spool(self, chunks: Iterable[bytes]) -> int:
        """Keep `chunks` in a file without a name and return its descriptor, which the caller closes."""
        name = temporary_name()
        descriptor = os.open(name, _CREATE & ~os.O_WRONLY | os.O_RDWR, 0o600, dir_fd=self.folder)
        os.unlink(name, dir_fd=self.folder)
        for chunk in chunks:
            write_all(descriptor, chunk)
        return descriptor

    def open(self, digest: str) -> int:
        """Return a descriptor of a content that was stored here or is known, which the caller closes."""
        try:
            return os.open(digest, _READ, dir_fd=self.folder)
        except FileNotFoundError:
            return os.open(f"{digest[:2]}/{digest}", _READ, dir_fd=self._known)

    def _has(self, digest: str) -> bool:
        if digest in self._stored:
            return True
        try:
            os.stat(f"{digest[:2]}/{digest}", dir_fd=self._known, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _write(self, digest: str, data: bytes) -> None:
        descriptor = os.open(digest, _CREATE, 0o600, dir_fd=self.folder)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)
        self._stored.add(digest)
