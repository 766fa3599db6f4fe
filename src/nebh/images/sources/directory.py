"""A directory as a source: walked by descriptors, so that nobody who writes in it can lead the reader elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from nebh.images.intake import Intake, Item
from nebh.images.objects import CHUNK
from nebh.model.errors import Failed

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def read_directory(root: int, intake: Intake, *, prefix: bytes = b"") -> Iterator[Item]:
    """Yield what stands below the directory `root` (a descriptor), in order, `prefix` before each path. Raises BadInput for devices, sockets and
    names that cannot be in an image; Failed when it changes while it is read."""
    yield from _walk(root, prefix, intake)


def _walk(folder: int, prefix: bytes, intake: Intake) -> Iterator[Item]:
    for name in sorted(os.fsencode(name) for name in os.listdir(folder)):
        path = intake.name(prefix + name)
        if not intake.is_kept(path):
            continue
        try:
            yield from _read(folder, name, path, intake)
        except OSError as error:
            raise Failed(
                f"cannot import {intake.what}: {path!r}: {error.strerror}",
                hint="everything in the directory must be readable, and stand still while it is read",
            ) from error


def _read(folder: int, name: bytes, path: str, intake: Intake) -> Iterator[Item]:
    state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    intake.owner(state.st_uid, state.st_gid)
    if stat.S_ISLNK(state.st_mode):
        yield intake.link(path, target=os.fsencode(os.readlink(name, dir_fd=folder)))
    elif stat.S_ISDIR(state.st_mode):
        below = os.open(name, _FOLDER, dir_fd=folder)
        try:
            yield intake.directory(path, mode=stat.S_IMODE(state.st_mode))
            yield from _walk(below, os.fsencode(path) + b"/", intake)
        finally:
            os.close(below)
    elif stat.S_ISREG(state.st_mode):
        yield _read_file(folder, name, path, intake)
    else:
        raise intake.refuse(path, "it is a device, a pipe or a socket", hint="only files, directories and links")


def _read_file(folder: int, name: bytes, path: str, intake: Intake) -> Item:
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise Failed(f"cannot import {intake.what}: {path!r} changed while it was read")
        for attribute in os.listxattr(descriptor):
            intake.attribute(path, attribute)
        chunks = _chunks(descriptor, state.st_size, path, intake)
        return intake.file(path, mode=stat.S_IMODE(state.st_mode), size=state.st_size, chunks=chunks)
    finally:
        os.close(descriptor)


def _chunks(descriptor: int, size: int, path: str, intake: Intake) -> Iterator[bytes]:
    left = size
    while chunk := os.read(descriptor, CHUNK):
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise Failed(f"cannot import {intake.what}: {path!r} changed while it was read", hint="try again")
