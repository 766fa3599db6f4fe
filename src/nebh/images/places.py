"""Places in an image where a node puts a service's own files: each must be a file, reached through directories alone,
or the runtime would follow an image's link, or write into a tree that images share."""

from __future__ import annotations

from collections.abc import Iterable

from nebh.images.manifest import EMPTY_SHA256
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest


def add_places(manifest: TreeManifest, paths: Iterable[str]) -> TreeManifest:
    """Return a manifest with an empty file at each of `paths` (absolute) that has none, and the directories it needs.
    Raises BadInput where something else stands in the way."""
    held = {entry.path: entry for entry in manifest.entries}
    added: dict[str, TreeEntry] = {}
    for path in paths:
        problem = find_obstacle({**held, **added}, path)
        if problem:
            raise BadInput(
                f"cannot put the file {path} into the image: {problem}", hint="choose another path, or mend the image"
            )
        words = path.strip("/").split("/")
        for length in range(1, len(words)):
            folder = "/".join(words[:length])
            if folder not in held:
                added[folder] = TreeEntry(path=folder, type=EntryType.DIRECTORY, mode=0o755)
        name = "/".join(words)
        if name not in held:
            added[name] = TreeEntry(path=name, type=EntryType.FILE, mode=0o444, sha256=EMPTY_SHA256)
    if not added:
        return manifest
    entries = sorted((*manifest.entries, *added.values()), key=lambda entry: entry.path)
    return TreeManifest(format=manifest.format, entries=tuple(entries))


def find_obstacle(held: dict[str, TreeEntry], path: str) -> str:
    """Return what stands in the way of a file at an absolute path, "" when nothing does. held: entries by path."""
    words = path.strip("/").split("/")
    for length in range(1, len(words)):
        folder = held.get("/".join(words[:length]))
        if folder is not None and folder.type is not EntryType.DIRECTORY:
            return f"/{folder.path} is a {_KINDS[folder.type]} of the image"
    there = held.get("/".join(words))
    return f"it is a {_KINDS[there.type]} of the image" if there and there.type is not EntryType.FILE else ""


_KINDS = {EntryType.DIRECTORY: "directory", EntryType.FILE: "file", EntryType.LINK: "link"}
