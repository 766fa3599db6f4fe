"""Other images as sources: OCI layouts, `docker save` archives, registries, and images that this computer holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from nebh.images.cache import ImageCache
from nebh.images.declared.layer import Layer, LayerCache
from nebh.images.importing import import_image
from nebh.images.intake import Intake, Item
from nebh.images.manifest import MOUNT_FILES
from nebh.images.objects import ObjectFolder
from nebh.model.build import FileItem, FileKind
from nebh.model.errors import NotFound
from nebh.model.image import EntryType, LintFinding, TreeManifest
from nebh.model.service import ImageSource, SourceKind

SOURCES: Final = {
    FileKind.OCI: SourceKind.OCI_LAYOUT,
    FileKind.DOCKER_ARCHIVE: SourceKind.DOCKER_ARCHIVE,
    FileKind.REGISTRY: SourceKind.REGISTRY,
    FileKind.IMAGE: SourceKind.MANIFEST,
}
"""Kinds of items that are images; the lock pins such an item by its tree manifest's digest."""


@dataclass(frozen=True, kw_only=True)
class FoundImage:
    """objects: where the contents are. findings: what was dropped when it was imported, which its tree cannot show."""

    manifest: TreeManifest
    objects: ObjectFolder
    findings: tuple[LintFinding, ...]


def find_image(
    item: FileItem, layers: LayerCache, *, architecture: str, kept: ImageCache | None = None, locked: str = ""
) -> FoundImage:
    """Return an item's tree, where its contents are, and what its import dropped. kept: the computer's images, those of `layers` when left out;
    locked: what the lock pins: a registry's image that is kept is taken whatever its tag says today. Raises as
    `import_image`."""
    kept = kept or layers.cache
    if item.kind is FileKind.IMAGE:
        return _kept(kept, item.source)
    if locked and item.kind is FileKind.REGISTRY:
        try:
            return _kept(kept, locked)
        except NotFound:
            pass
    source = ImageSource(kind=SOURCES[item.kind], location=item.source)
    report = import_image(source, cache=layers.cache, limits=layers.limits, architecture=architecture)
    return FoundImage(manifest=report.manifest, objects=layers.cache.objects, findings=report.findings)


def _kept(cache: ImageCache, digest: str) -> FoundImage:
    return FoundImage(manifest=cache.manifest(digest), objects=cache.objects, findings=cache.findings(digest))


def read_tree(found: FoundImage, layers: LayerCache, *, digest: str, what: str) -> Layer:
    """Return what `find_image` found as a layer; what it asks for is read in a child, as of every source."""
    read = partial(_read, found.manifest, found.objects)
    layer = layers.read(read, what=what, kind="image", digest=digest, confined=False)
    return replace(layer, findings=found.findings)


def _read(manifest: TreeManifest, objects: ObjectFolder, intake: Intake) -> Iterator[Item]:
    for entry in manifest.entries:
        if entry.path in MOUNT_FILES and not entry.size:
            continue
        path = intake.name(entry.path.encode())
        match entry.type:
            case EntryType.DIRECTORY:
                yield intake.directory(path, mode=entry.mode)
            case EntryType.LINK:
                yield intake.link(path, target=entry.target.encode())
            case EntryType.FILE:
                chunks = objects.read(entry.sha256) if entry.size else ()
                yield intake.file(path, mode=entry.mode, size=entry.size, chunks=chunks)
