"""The lock: every source of a declaration by digest. The same declaration and lock give the same tree anywhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from nebh.host.files import read_bounded, write_atomic
from nebh.images.declared.apt import private_apt
from nebh.images.declared.layer import Layer, LayerCache
from nebh.images.declared.npm import lock_npm, read_package_lock
from nebh.images.declared.readers import read_path
from nebh.images.declared.wheels import find_python, lock_wheels
from nebh.images.declared.whole_images import SOURCES, find_image
from nebh.images.manifest import digest_manifest, encode_manifest
from nebh.images.objects import ObjectFolder, hash_file
from nebh.model.build import FileItem, ImageDeclaration, ImageLock, LockedFile, LockedPackage, LockedWheel
from nebh.model.errors import BadInput, Conflict, NotFound
from nebh.wire import codec

FORMAT: Final = 1
# What a shell line may count on in the sandbox; the rest is declared.
BUILD_TOOLS: Final = ("dash", "coreutils", "sed", "grep", "findutils", "tar", "gzip", "mawk")
_MOST: Final = 16 << 20
_NO_SYMLINK: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def make_lock(
    declared: ImageDeclaration, *, layers: LayerCache, downloads: ObjectFolder, progress: Callable[[str], None]
) -> ImageLock:
    """Resolve and pin everything. Raises BadInput, NotFound, Unreachable, each naming the source."""
    packages = _lock_packages(declared, progress)
    python = find_python(packages)
    wheels: tuple[LockedWheel, ...] = ()
    if declared.python.requirements:
        if not python:
            raise BadInput(
                "cannot lock the Python packages: the image has no Python",
                hint="add python3-minimal, or python3, to `packages`",
            )
        progress("choosing wheels")
        wheels = lock_wheels(declared.python.requirements, downloads, python=python, architecture=declared.architecture)
    package_lock = read_package_lock(declared.npm) if declared.npm is not None else b""
    return ImageLock(
        format=FORMAT,
        wanted=digest_wanted(declared),
        architecture=declared.architecture,
        python=python,
        packages=packages,
        wheels=wheels,
        npm_lock=hashlib.sha256(package_lock).hexdigest() if declared.npm is not None else "",
        npm=lock_npm(declared.npm, package_lock, downloads, architecture=declared.architecture, progress=progress)
        if declared.npm is not None
        else (),
        files=lock_files(declared, layers),
    )


def refresh_files(lock: ImageLock, declared: ImageDeclaration, layers: LayerCache) -> ImageLock:
    """Return `lock` with the project's own files pinned as they are now."""
    return replace(lock, files=lock_files(declared, layers))


def lock_files(declared: ImageDeclaration, layers: LayerCache) -> tuple[LockedFile, ...]:
    """Pin the project's own files."""
    found = {item.written: digest_item(item, layers, declared.architecture) for item in all_files(declared)}
    return tuple(LockedFile(written=written, sha256=digest) for written, digest in sorted(found.items()))


def all_files(declared: ImageDeclaration) -> tuple[FileItem, ...]:
    """Return the items of `files` and of `build.files`."""
    return (*declared.files, *(declared.build.files if declared.build is not None else ()))


def check_lock(lock: ImageLock, declared: ImageDeclaration, *, name: str) -> None:
    """Raise Conflict when `lock` was made for another declaration."""
    if lock.wanted != digest_wanted(declared) or lock.architecture != declared.architecture:
        raise Conflict(
            f"cannot build by {name}: the declaration names other sources than the lock was made for",
            hint="run `nebh image lock` and look at the difference",
        )


def digest_wanted(declared: ImageDeclaration) -> str:
    """Return a digest of everything in a declaration that a lock resolves."""
    build = declared.build
    wanted = {
        "packages": declared.packages,
        "build": (*BUILD_TOOLS, *build.packages) if build is not None else (),
        "debian": replace(declared.debian, keyring=""),
        "requirements": declared.python.requirements,
        "architecture": declared.architecture,
        "files": sorted({item.written for item in all_files(declared)}),
        **({"npm": declared.npm.written} if declared.npm is not None else {}),
    }
    return hashlib.sha256(codec.encode(wanted)).hexdigest()


@contextlib.contextmanager
def open_item(item: FileItem) -> Iterator[int]:
    """Open a file or folder of the project. Raises NotFound, BadInput for what is neither."""
    try:
        descriptor = os.open(item.source, _NO_SYMLINK)
    except FileNotFoundError:
        raise NotFound(f"cannot find {item.written}: there is no {item.source}", hint="check `files`") from None
    except OSError as error:
        raise BadInput(f"cannot read {item.written}: {error.strerror}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and item.kind == "path")):
            raise BadInput(
                f"cannot use {item.written}: it is not a {'file' if item.kind != 'path' else 'file or folder'}"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def digest_item(item: FileItem, layers: LayerCache, architecture: str) -> str:
    """Return the digest that the lock pins: of a file its bytes, of a folder its names, modes and contents, of an image
    its tree manifest's."""
    if item.kind in SOURCES:
        manifest = find_image(item, layers, architecture=architecture).manifest
        return digest_manifest(encode_manifest(manifest))
    with open_item(item) as descriptor:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return read_folder(item, descriptor, layers).digest()
        return hash_file(descriptor)


def read_folder(item: FileItem, descriptor: int, layers: LayerCache) -> Layer:
    """Return the layer of a folder of the project; `place_root` says where it stands."""
    return layers.read(partial(read_path, descriptor), what=item.written, confined=False)


def read_lock(path: Path) -> ImageLock:
    """Return a lock file. Raises NotFound, BadInput."""
    try:
        data = read_bounded(path, limit=_MOST)
    except FileNotFoundError:
        raise NotFound(
            f"cannot read {path}: the image has no lock yet", hint="`nebh image lock` makes it; commit it with the code"
        ) from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error}") from error
    lock = codec.decode_loose(data, ImageLock, what=str(path), limit=_MOST)
    if lock.format != FORMAT:
        raise BadInput(f"cannot read {path}: its format is {lock.format}, this program reads {FORMAT}")
    return lock


def write_lock(path: Path, lock: ImageLock) -> None:
    """Write a lock so that people can read differences of it."""
    write_atomic(path, (json.dumps(codec.to_plain(lock), indent=1, sort_keys=True) + "\n").encode())


def _lock_packages(declared: ImageDeclaration, progress: Callable[[str], None]) -> tuple[LockedPackage, ...]:
    building = (*BUILD_TOOLS, *declared.build.packages) if declared.build is not None else ()
    if not declared.packages and not building:
        return ()
    with private_apt(declared.debian, architecture=declared.architecture) as apt:
        progress(f"reading the lists of {declared.debian.suite}")
        apt.update()
        progress("resolving packages")
        run = apt.resolve(declared.packages)
        extra = apt.resolve(tuple(dict.fromkeys((*declared.packages, *building)))) if building else {}
    for name, one in extra.items():
        if name in run and run[name].version != one.version:
            raise BadInput(f"cannot lock {name}: image and build need different versions of it")
    added = {name: replace(one, build=True) for name, one in extra.items() if name not in run}
    return tuple(sorted((*run.values(), *added.values()), key=lambda one: one.name))
