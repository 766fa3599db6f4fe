"""Contents by their SHA-256: the plain object folder of operators' machines and of the controller.

FOLDER/ab/<sha256>, mode 0444. A file appears under its name only when it is whole and its hash is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from nebh.host.disk import sync_filesystem
from nebh.host.files import write_all
from nebh.model.errors import BadInput, NotFound
from nebh.model.names import is_digest

CHUNK: Final = 1 << 20
TEMPORARY: Final = ".new-"
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def write_checked(folder: int, name: str, chunks: Iterable[bytes], *, digest: str, size: int) -> int:
    """Create `name` in the folder (a descriptor) from exactly `size` bytes with this SHA-256; return a descriptor
    of the written file, which the caller closes. Stops at the first byte too many; on any error `name` is gone.
    Raises BadInput for another length or hash."""
    descriptor = os.open(name, _CREATE, 0o600, dir_fd=folder)
    try:
        hasher, left = hashlib.sha256(), size
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise BadInput(f"cannot store object {digest}: more than the promised {size} bytes arrived")
            hasher.update(chunk)
            write_all(descriptor, chunk)
        if left:
            raise BadInput(f"cannot store object {digest}: {left} of {size} bytes are missing")
        if hasher.hexdigest() != digest:
            raise BadInput(f"cannot store object {digest}: the bytes that arrived have SHA-256 {hasher.hexdigest()}")
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
    return descriptor


def read_chunks(descriptor: int) -> Iterator[bytes]:
    """Yield the rest of a file in chunks of at most CHUNK bytes and close it at the end."""
    try:
        while chunk := os.read(descriptor, CHUNK):
            yield chunk
    finally:
        os.close(descriptor)


def hash_file(descriptor: int) -> str:
    """Return the hex SHA-256 of a file from its current position; the descriptor stays open."""
    hasher = hashlib.sha256()
    while chunk := os.read(descriptor, CHUNK):
        hasher.update(chunk)
    return hasher.hexdigest()


def temporary_name() -> str:
    """Return a fresh name that the sweeps recognise as unfinished work."""
    return TEMPORARY + secrets.token_hex(8)


class ObjectFolder:
    """Objects keyed by the SHA-256 of their plain bytes. Several processes may use one folder at once."""

    def __init__(self, path: Path) -> None:
        """Use `path`, made when it does not exist."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def has(self, digest: str) -> bool:
        """Tell whether the object is here."""
        return self._place(digest).is_file()

    def size(self, digest: str) -> int:
        """Return an object's length in bytes. Raises NotFound."""
        try:
            return self._place(digest).stat().st_size
        except FileNotFoundError:
            raise _unknown(digest) from None

    def missing(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Return those of `digests` that are not here, once each, in their order."""
        return tuple(digest for digest in dict.fromkeys(digests) if not self.has(digest))

    def put(self, digest: str, size: int, chunks: Iterable[bytes]) -> None:
        """Store an object of exactly `size` bytes. Raises BadInput when the bytes are not those; then nothing is kept.
        Durable after `sync`. An object that is here already is read from `chunks` and checked all the same."""
        place = self._place(digest)
        place.parent.mkdir(exist_ok=True)
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = temporary_name()
            descriptor = write_checked(folder, name, chunks, digest=digest, size=size)
            try:
                os.fchmod(descriptor, 0o444)
            finally:
                os.close(descriptor)
            os.rename(name, place.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def adopt(self, digest: str, *, folder: int) -> None:
        """Take over the file `digest` of `folder` (a descriptor, same file system), whose bytes the caller checked."""
        place = self._place(digest)
        place.parent.mkdir(exist_ok=True)
        os.rename(digest, place, src_dir_fd=folder)

    def open(self, digest: str) -> int:
        """Return a descriptor for reading, which the caller closes. Raises NotFound."""
        try:
            return os.open(self._place(digest), _READ)
        except FileNotFoundError:
            raise _unknown(digest) from None

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield an object's bytes. Raises NotFound before the first chunk is asked for."""
        return read_chunks(self.open(digest))

    def digests(self) -> Iterator[str]:
        """Yield every object's digest."""
        for folder in sorted(self.path.iterdir()):
            if folder.is_dir():
                yield from (name for name in sorted(entry.name for entry in folder.iterdir()) if is_digest(name))

    def remove(self, digest: str) -> None:
        """Remove an object; one that is not here is no error."""
        self._place(digest).unlink(missing_ok=True)

    def renew(self, digests: Iterable[str]) -> None:
        """Let these objects count as written now: somebody is about to need them. Those that are not here are no
        error."""
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._place(digest))

    def remove_older(self, digest: str, *, than: float) -> int:
        """Remove an object that was neither written nor renewed since `than` (Unix seconds); return its size, else 0."""
        with contextlib.suppress(FileNotFoundError):
            state = self._place(digest).stat()
            if state.st_mtime < than:
                self._place(digest).unlink()
                return max(1, state.st_size)
        return 0

    def sync(self) -> None:
        """Make everything stored so far durable."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(descriptor)
        finally:
            os.close(descriptor)

    def sweep(self) -> int:
        """Remove what broken-off writes left behind; nobody may be writing. Return how many."""
        leftovers = list(self.path.glob(f"*/{TEMPORARY}*"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def _place(self, digest: str) -> Path:
        if not is_digest(digest):
            raise BadInput(f"cannot look up object {digest[:80]!r}: it is not a SHA-256")
        return self.path / digest[:2] / digest


def _unknown(digest: str) -> NotFound:
    return NotFound(f"cannot read object {digest}: it is not here")
