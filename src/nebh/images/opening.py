"""Opening a source before its reader gives up the rights to: afterwards only descriptors are used."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from nebh.images.cache import ImageCache
from nebh.images.intake import Intake
from nebh.images.layers import ImageTree
from nebh.images.report import ImageDefaults
from nebh.images.sources.directory import read_directory
from nebh.images.sources.oci import Wanted, read_archive, read_layout
from nebh.images.sources.registry import fetch_image
from nebh.images.sources.streams import Hashed, Window, plain
from nebh.images.sources.tar import read_tar
from nebh.model.errors import BadInput, NotFound
from nebh.model.names import is_digest
from nebh.model.service import ImageSource, SourceKind

_FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_MOST_BLOBS: Final = 4000

Read = Callable[[ImageTree, Intake], tuple[str, ImageDefaults]]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """what: the source's name in errors. read: fills the tree, in the child; returns origin and config proposals.
    confined: all it reads is open, so the child may become somebody who could not open it."""

    what: str
    read: Read
    confined: bool


@contextlib.contextmanager
def open_source(source: ImageSource, *, cache: ImageCache, architecture: str) -> Iterator[Opened]:
    """Open a source of any kind but MANIFEST and DOOR. Raises NotFound, BadInput, Failed."""
    what = f"{source.kind.value}:{source.location}"
    with contextlib.ExitStack() as stack:
        match source.kind:
            case SourceKind.DIRECTORY:
                yield Opened(what=what, read=_directory(stack, what, source.location), confined=False)
            case SourceKind.TAR:
                yield Opened(what=what, read=_tar(stack, what, source.location), confined=True)
            case SourceKind.OCI_LAYOUT:
                path, tag = _split_tag(source.location)
                read = _layout(stack, what, path, Wanted(architecture=architecture, tag=tag))
                yield Opened(what=what, read=read, confined=True)
            case SourceKind.DOCKER_ARCHIVE:
                path, tag = _split_tag(source.location)
                read = _archive(stack, what, path, Wanted(architecture=architecture, tag=tag))
                yield Opened(what=what, read=read, confined=True)
            case SourceKind.REGISTRY:
                into = stack.enter_context(cache.folder()) / "layout"
                fetch_image(source.location, into=into, architecture=architecture)
                name = "docker://" + source.location.removeprefix("docker://")
                read = _layout(stack, name, str(into), Wanted(architecture=architecture))
                yield Opened(what=what, read=read, confined=True)
            case SourceKind.MANIFEST | SourceKind.DOOR:
                raise BadInput(f"cannot open {what}: it is no source on this computer")
            case SourceKind.BUILD:
                raise BadInput(f"cannot open {what}: a declaration is built", hint="nebh image build")
            case _:
                assert_never(source.kind)


def _directory(stack: contextlib.ExitStack, what: str, location: str) -> Read:
    descriptor = _open(stack, what, location, _FOLDER, hint="`dir` takes a directory with a root file system")

    def read(tree: ImageTree, intake: Intake) -> tuple[str, ImageDefaults]:
        tree.add_layer(read_directory(descriptor, intake), whiteouts=False)
        return what, ImageDefaults()

    return read


def _tar(stack: contextlib.ExitStack, what: str, location: str) -> Read:
    descriptor = _open_file(stack, what, location)

    def read(tree: ImageTree, intake: Intake) -> tuple[str, ImageDefaults]:
        source = Hashed(Window(descriptor))
        stream = plain(source, what=intake.what, limits=intake.limits)
        tree.add_layer(read_tar(stream, intake), whiteouts=False)
        source.drain()
        return f"{what}@{source.digest}", ImageDefaults()

    return read


def _layout(stack: contextlib.ExitStack, what: str, location: str, wanted: Wanted) -> Read:
    folder = _open(stack, what, location, _FOLDER, hint="`oci-layout` takes the directory of an OCI layout")
    index = _open_in(stack, what, folder, "index.json")
    blobs = _open_blobs(stack, what, folder)

    def blob(digest: str) -> Window:
        name = digest.removeprefix("sha256:")
        if not digest.startswith("sha256:") or not is_digest(name):
            raise BadInput(f"cannot import {what}: {digest[:100]!r} is not a digest that this program reads")
        if name not in blobs:
            raise BadInput(f"cannot import {what}: the blob {digest} is missing")
        return Window(blobs[name])

    def read(tree: ImageTree, intake: Intake) -> tuple[str, ImageDefaults]:
        digest, defaults = read_layout(Window(index), blob, tree, intake, wanted=wanted)
        return f"{what}@{digest}", defaults

    return read


def _archive(stack: contextlib.ExitStack, what: str, location: str, wanted: Wanted) -> Read:
    descriptor = _open_file(stack, what, location)

    def read(tree: ImageTree, intake: Intake) -> tuple[str, ImageDefaults]:
        digest, defaults = read_archive(descriptor, tree, intake, wanted=wanted)
        return f"{what}@{digest}", defaults

    return read


def _open_blobs(stack: contextlib.ExitStack, what: str, folder: int) -> dict[str, int]:
    """Open every blob of a layout: which ones the image needs, only the unprivileged reader may find out."""
    try:
        below = os.open("blobs/sha256", _FOLDER, dir_fd=folder)
    except OSError as error:
        raise BadInput(f"cannot import {what}: blobs/sha256: {error.strerror}") from error
    stack.callback(os.close, below)
    names = [name for name in os.listdir(below) if is_digest(name)]
    if len(names) > _MOST_BLOBS:
        raise BadInput(
            f"cannot import {what}: the layout has more than {_MOST_BLOBS} blobs",
            hint="copy the image into a layout of its own: skopeo copy oci:LAYOUT:NAME oci:NEW",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _MOST_BLOBS + 256), hard))
    return {name: _open_in(stack, what, below, name) for name in names}


def _open_in(stack: contextlib.ExitStack, what: str, folder: int, name: str) -> int:
    try:
        descriptor = os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        raise BadInput(f"cannot import {what}: {name}: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    return descriptor


def _open_file(stack: contextlib.ExitStack, what: str, location: str) -> int:
    if Path(location).exists() and not Path(location).is_file():
        raise BadInput(f"cannot import {what}: it is not a file", hint="a directory is imported as `dir`")
    return _open(stack, what, location, _FILE)


def _open(stack: contextlib.ExitStack, what: str, location: str, flags: int, *, hint: str = "") -> int:
    try:
        descriptor = os.open(location, flags)
    except FileNotFoundError:
        raise NotFound(f"cannot import {what}: there is no {location}", hint=hint) from None
    except OSError as error:
        raise BadInput(f"cannot import {what}: {error.strerror}", hint=hint) from error
    stack.callback(os.close, descriptor)
    return descriptor


def _split_tag(location: str) -> tuple[str, str]:
    """Split `PATH:NAME`; a path that exists as it is has no name behind it."""
    path, colon, tag = location.rpartition(":")
    if colon and not Path(location).exists() and Path(path).exists():
        return path, tag
    if colon and "/" not in tag and not Path(location).exists():
        # A tag of a docker-archive may hold a colon itself: archive.tar:web:1.
        outer, inner, name = path.rpartition(":")
        if inner and Path(outer).exists():
            return outer, f"{name}:{tag}"
    return location, ""
