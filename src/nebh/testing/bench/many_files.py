"""A store with an image of 10,000 small files in several releases. As a program: `STORE [DIGEST]` lays one out."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from nebh.images.manifest import EMPTY_SHA256, FORMAT, MOUNT_DIRECTORIES, MOUNT_FILES, encode_manifest, refer_to
from nebh.images.store import NodeStore
from nebh.model.image import EntryType, TreeEntry, TreeManifest

FILES = 10_000
CONTENTS = 2_000


def fill(store: NodeStore, *, releases: int) -> list[tuple[str, TreeManifest]]:
    """Keep the contents and manifests of `releases` that differ in one file of 8 KiB, the first entry; return them."""
    contents = [f"file {number}".encode() * (1 + number % 700) for number in range(CONTENTS)]
    for data in contents:
        store.put(hashlib.sha256(data).hexdigest(), len(data), [data])
    found = []
    for release in range(releases):
        changed = f"{release:08}".encode() * 1024
        store.put(hashlib.sha256(changed).hexdigest(), len(changed), [changed])
        manifest = _manifest(changed, contents)
        digest = refer_to(manifest).manifest
        store.keep_manifest(digest, encode_manifest(manifest))
        found.append((digest, manifest))
    return found


def _manifest(changed: bytes, contents: list[bytes]) -> TreeManifest:
    entries = [_file("a-changed", changed)]
    entries += [_folder(f"d{number:03}") for number in range(100)]
    entries += [_file(f"d{number % 100:03}/f{number}", contents[number % CONTENTS]) for number in range(FILES - 1)]
    entries += [_folder(path) for path in MOUNT_DIRECTORIES]
    entries += [TreeEntry(path=path, type=EntryType.FILE, mode=0o644, sha256=EMPTY_SHA256) for path in MOUNT_FILES]
    return TreeManifest(format=FORMAT, entries=tuple(sorted(entries, key=lambda one: one.path.encode())))


def _folder(path: str) -> TreeEntry:
    return TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)


def _file(path: str, data: bytes) -> TreeEntry:
    digest = hashlib.sha256(data).hexdigest()
    return TreeEntry(path=path, type=EntryType.FILE, mode=0o644, size=len(data), sha256=digest)


def main(root: str, digest: str = "") -> None:
    """Lay out an image, or do everything but that."""
    store = NodeStore(Path(root))
    if digest:
        store.materialise(digest, store.manifest(digest), durable=False)
    else:
        found = next(path.stem for path in store.manifests.glob("*.json"))
        store.manifest(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
