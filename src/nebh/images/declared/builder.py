"""A declaration and its lock -> an image in the cache: fetch, lay over each other, build, reduce, check, keep."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from nebh.images.cache import ImageCache
from nebh.images.declared.apt import fetch_packages
from nebh.images.declared.assembly import Tree
from nebh.images.declared.commands import run_commands
from nebh.images.declared.extras import add_extras
from nebh.images.declared.facts import FileFacts
from nebh.images.declared.layer import Layer, LayerCache
from nebh.images.declared.lock import check_lock, digest_wanted, open_item, read_folder
from nebh.images.declared.npm import fetch_npm, read_package_lock
from nebh.images.declared.readers import place_path, place_root, read_archive, read_package, read_path, read_wheel
from nebh.images.declared.reduce import Reduced, Unwanted, reduce_tree
from nebh.images.declared.rpm import read_rpm
from nebh.images.declared.slices import load_slices
from nebh.images.declared.wheels import fetch_wheels, site_folder
from nebh.images.declared.whole_images import SOURCES, find_image, read_tree
from nebh.images.manifest import digest_manifest, encode_manifest, refer_to
from nebh.images.objects import ObjectFolder, hash_file
from nebh.images.records import SourceRecord
from nebh.images.report import ImportReport
from nebh.model.build import FileItem, FileKind, ImageDeclaration, ImageLock, LockedPackage
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, LintFinding

_READ: Final = os.O_RDONLY | os.O_CLOEXEC
_SITES: Final = "/dist-packages/"
# What others packed is reduced; everything else is the project's own, and kept.
_PACKED: Final = frozenset(("deb", "rpm", *(kind.value for kind in SOURCES)))


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image that was built. whole: entries and bytes of all sources before anything was reduced."""

    report: ImportReport
    sources: tuple[SourceRecord, ...]
    reduced: Reduced
    whole: tuple[int, int]


@dataclass(kw_only=True)
class _Work:
    tree: Tree = field(default_factory=Tree)
    facts: dict[str, FileFacts] = field(default_factory=dict)
    findings: list[LintFinding] = field(default_factory=list)
    sources: dict[str, SourceRecord] = field(default_factory=dict)

    def lay(self, layer: Layer, source: SourceRecord, *, to: str = "") -> None:
        origin = f"{source.kind} {source.name}"
        if source.kind == "npm":  # the one source that comes in several versions at once
            origin += f" {source.version}"
        self.sources.setdefault(origin, source)
        self.tree.add(place_root(layer.entries, to) if to else layer.entries, origin=origin)
        self.facts.update(layer.facts)
        for one in layer.findings:
            path = place_path(one.path, to) if to else one.path.strip("/")
            self.findings.append(replace(one, path=self.tree.walk(path).path or path))


class Builder:
    """Builds into one cache. `progress` is told what happens."""

    def __init__(
        self,
        cache: ImageCache,
        *,
        progress: Callable[[str], None],
        unwanted: Unwanted,
        downloads: ObjectFolder | None = None,
        kept: ImageCache | None = None,
        may_run: bool = True,
    ) -> None:
        """unwanted: of a path, whether lint would call it a shell, a package manager or a tool. downloads: where
        fetched sources are kept, kept: where images that are sources are, in the cache when left out. may_run: whether build commands may run on this machine."""
        self.cache, self.progress, self.unwanted, self.may_run = cache, progress, unwanted, may_run
        self.layers = LayerCache(cache)
        self.downloads = downloads or ObjectFolder(cache.root / "downloads")
        self.kept = kept or cache

    def build(self, declared: ImageDeclaration, lock: ImageLock, *, name: str = "image.lock") -> Built:
        """Build the image. Raises Conflict when the lock is another declaration's, BadInput for sources that are not
        the locked ones or cannot be in an image, Failed when something cannot be fetched or a command fails."""
        check_lock(lock, declared, name=name)
        self._fetch(declared, lock)
        work = _Work()
        work.tree.add_merged_links()
        self._lay_packages([one for one in lock.packages if not one.build], work)
        self._lay_wheels(lock, work)
        self._lay_npm(declared, lock, work)
        outputs = self._build(declared, lock)
        for item in declared.files:
            self.progress(f"reading {item.written}")
            work.lay(*self._own(item, lock), to=item.to if item.kind is FileKind.PATH else "")
        for layer, to in outputs:
            work.lay(layer, SourceRecord(kind="build", name=to, sha256=layer.digest()), to=to)
        return self._finish(declared, work, lock)

    def _fetch(self, declared: ImageDeclaration, lock: ImageLock) -> None:
        fetch_packages(lock.packages, self.downloads, progress=self.progress)
        fetch_wheels(
            lock.wheels,
            self.downloads,
            python=lock.python,
            architecture=declared.architecture,
            progress=self.progress,
        )
        if declared.npm is not None:
            if hashlib.sha256(read_package_lock(declared.npm)).hexdigest() != lock.npm_lock:
                raise BadInput(
                    f"cannot use {declared.npm.written}: it has changed since the lock was made",
                    hint="run `nebh image lock` and look at the difference",
                )
            fetch_npm(lock.npm, self.downloads, progress=self.progress)
        # Also those whose layers are kept: `nebh image verify` reads them again.
        for locked in (lock.packages, lock.wheels, lock.npm):
            self.downloads.renew(one.sha256 for one in locked)

    def _lay_packages(self, packages: Iterable[LockedPackage], work: _Work) -> None:
        for one in packages:
            layer = self.layers.known("deb", one.sha256)
            if layer is None:
                self.progress(f"unpacking {one.name} {one.version}")
                layer = self._read(one.sha256, f"package {one.name}", "deb", read_package)
            work.lay(layer, SourceRecord(kind="deb", name=one.name, version=one.version, sha256=one.sha256))

    def _lay_wheels(self, lock: ImageLock, work: _Work) -> None:
        site = site_folder(lock.python)
        for one in lock.wheels:
            read = partial(read_wheel, site=site)
            layer = self._read(one.sha256, one.filename, f"wheel-{lock.python}", read)
            work.lay(layer, SourceRecord(kind="wheel", name=one.name, version=one.version, sha256=one.sha256))

    def _lay_npm(self, declared: ImageDeclaration, lock: ImageLock, work: _Work) -> None:
        for one in lock.npm if declared.npm is not None else ():
            place = f"{declared.npm.to.rstrip('/')}/{one.path}" if declared.npm is not None else ""
            read = partial(read_archive, to=place, strip=1)
            kind = "npm-" + hashlib.sha256(place.encode()).hexdigest()[:16]
            layer = self._read(one.sha256, f"{one.name} {one.version}", kind, read)
            work.lay(layer, SourceRecord(kind="npm", name=one.name, version=one.version, sha256=one.sha256))

    def _read(self, digest: str, what: str, kind: str, read: Callable[..., object]) -> Layer:
        descriptor = self.downloads.open(digest)
        try:
            return self.layers.read(partial(read, descriptor), what=what, kind=kind, digest=digest)  # type: ignore[arg-type]
        finally:
            os.close(descriptor)

    def _own(self, item: FileItem, lock: ImageLock) -> tuple[Layer, SourceRecord]:
        """Return the layer of one of the project's own files. Raises BadInput when it is not what was locked."""
        wanted = {one.written: one.sha256 for one in lock.files}[item.written]
        if item.kind in SOURCES:
            return self._whole_image(item, wanted, lock.architecture)
        with open_item(item) as descriptor:
            folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            layer = read_folder(item, descriptor, self.layers) if folder else None
            found = layer.digest() if layer is not None else hash_file(descriptor)
            _check_same(item, found, wanted)
            if layer is None:
                os.lseek(descriptor, 0, os.SEEK_SET)
                layer = self._read_item(item, descriptor, found)
        return layer, SourceRecord(kind=item.kind.value, name=item.written, sha256=found)

    def _whole_image(self, item: FileItem, wanted: str, architecture: str) -> tuple[Layer, SourceRecord]:
        image = find_image(item, self.layers, architecture=architecture, kept=self.kept, locked=wanted)
        found = digest_manifest(encode_manifest(image.manifest))
        _check_same(item, found, wanted)
        layer = read_tree(image, self.layers, digest=found, what=item.written)
        return layer, SourceRecord(kind=item.kind.value, name=item.written, sha256=found)

    def _read_item(self, item: FileItem, descriptor: int, digest: str) -> Layer:
        if item.kind is FileKind.DEB:
            return self.layers.read(partial(read_package, descriptor), what=item.written, kind="deb", digest=digest)
        if item.kind is FileKind.RPM:
            return self.layers.read(partial(read_rpm, descriptor), what=item.written, kind="rpm", digest=digest)
        if item.kind is FileKind.TAR:
            read = partial(read_archive, descriptor, to=item.to, strip=item.strip)
            place = hashlib.sha256(f"{digest} {item.strip} {item.to}".encode()).hexdigest()
            return self.layers.read(read, what=item.written, kind="tar", digest=place)
        return self.layers.read(partial(read_path, descriptor), what=item.written)

    def _build(self, declared: ImageDeclaration, lock: ImageLock) -> list[tuple[Layer, str]]:
        if declared.build is None:
            return []
        work = _Work()
        work.tree.add_merged_links()
        self._lay_packages(lock.packages, work)
        self._lay_wheels(lock, work)
        self._lay_npm(declared, lock, work)
        for item in (*declared.files, *declared.build.files):
            work.lay(*self._own(item, lock), to=item.to if item.kind is FileKind.PATH else "")
        return run_commands(
            declared.build,
            work.tree,
            cache=self.cache,
            layers=self.layers,
            progress=self.progress,
            may_run=self.may_run,
        )

    def _finish(self, declared: ImageDeclaration, work: _Work, lock: ImageLock) -> Built:
        tree = work.tree
        whole = (len(tree.entries), sum(entry.size for entry in tree.entries.values()))
        modules = {tree.origin[path] for path in tree.entries if _SITES in path}
        self.progress("reducing")
        reduced = reduce_tree(
            tree,
            work.facts,
            declared,
            slices=load_slices(),
            own=lambda origin: origin.partition(" ")[0] not in _PACKED and origin != "base",
            whole=lambda origin: origin.startswith("deb ") and origin in modules,
            unwanted=self.unwanted,
        )
        add_extras(tree, declared, reduced.closure, self.cache.objects)
        manifest = tree.manifest()
        data = encode_manifest(manifest)
        digest = self.cache.add_manifest(data)
        findings = tuple(dict.fromkeys(one for one in work.findings if one.path in tree.entries))
        self.cache.keep_findings(digest, findings)
        report = ImportReport(
            digest=digest,
            ref=refer_to(manifest, data=data),
            manifest=manifest,
            origin=f"build:{digest_wanted(declared)[:12]}",
            findings=findings,
        )
        building = (one for one in lock.packages if one.build)
        extra = tuple(
            SourceRecord(kind="deb", name=one.name, version=one.version, sha256=one.sha256, build=True)
            for one in building
        )
        return Built(report=report, sources=(*_count(work), *extra), reduced=reduced, whole=whole)


def _check_same(item: FileItem, found: str, wanted: str) -> None:
    if found != wanted:
        raise BadInput(
            f"cannot use {item.written}: it has changed since the lock was made",
            hint="`nebh image build --refresh` pins the project's own files as they are now",
        )


def _count(work: _Work) -> tuple[SourceRecord, ...]:
    files: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for entry in work.tree.entries.values():
        if entry.type is EntryType.FILE:
            origin = work.tree.origin.get(entry.path, "base")
            files[origin] = files.get(origin, 0) + 1
            sizes[origin] = sizes.get(origin, 0) + entry.size
    return tuple(
        replace(source, files=files.get(origin, 0), bytes=sizes.get(origin, 0))
        for origin, source in sorted(work.sources.items())
    )


def lock_path(declaration: Path) -> Path:
    """Return where the lock of a declaration stands: image.yaml -> image.lock."""
    return declaration.with_suffix(".lock")
