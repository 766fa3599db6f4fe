"""A power cut may keep a name and lose what the file held: such files are not taken for whole ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nebh.images.manifest import encode_manifest, refer_to
from nebh.images.store import NodeStore
from nebh.model.image import EntryType, TreeEntry, TreeManifest

WEB = b"#!/bin/web\n"
SHA = hashlib.sha256(WEB).hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()
MANIFEST = TreeManifest(
    format=1,
    entries=(
        TreeEntry(path="dev", type=EntryType.DIRECTORY, mode=0o755),
        TreeEntry(path="etc", type=EntryType.DIRECTORY, mode=0o755),
        *(
            TreeEntry(path=f"etc/{name}", type=EntryType.FILE, mode=0o644, sha256=EMPTY)
            for name in ("hostname", "hosts", "resolv.conf")
        ),
        TreeEntry(path="proc", type=EntryType.DIRECTORY, mode=0o755),
        TreeEntry(path="tmp", type=EntryType.DIRECTORY, mode=0o755),
        TreeEntry(path="web", type=EntryType.FILE, mode=0o755, size=len(WEB), sha256=SHA),
    ),
)
DIGEST = refer_to(MANIFEST).manifest


def build(folder: Path, *, synced: bool) -> NodeStore:
    store = NodeStore(folder)
    store.keep_manifest(DIGEST, encode_manifest(MANIFEST))
    store.expect(DIGEST)
    store.put(SHA, len(WEB), iter([WEB]))
    store.materialise(DIGEST, MANIFEST, durable=False)
    if synced:
        store.sync()
    return store


def lose(folder: Path, size: int) -> None:
    """What a power cut does to a file that was not synced."""
    (path,) = (folder / "objects").glob(f"*/{SHA}.*")
    os.truncate(path, size)


@pytest.mark.parametrize("size", [0, 4])
def test_a_file_that_lost_its_bytes_is_fetched_again(tmp_path: Path, size: int) -> None:
    assert not build(tmp_path, synced=False).is_durable(DIGEST)
    lose(tmp_path, size)
    store = NodeStore(tmp_path)
    assert store.sweep() == 2
    assert not store.has_tree(DIGEST)
    assert store.missing(MANIFEST).items == ((SHA, len(WEB)),)
    store.put(SHA, len(WEB), iter([WEB]))
    store.materialise(DIGEST, MANIFEST)
    assert store.verify_tree(MANIFEST, digest=DIGEST) == ()


def test_what_is_sound_is_kept_and_made_durable(tmp_path: Path) -> None:
    build(tmp_path, synced=False)
    store = NodeStore(tmp_path)
    assert store.sweep() == 0
    assert store.is_durable(DIGEST)


def test_what_was_synced_is_not_looked_at_again(tmp_path: Path) -> None:
    build(tmp_path, synced=True)
    store = NodeStore(tmp_path)
    assert store.is_durable(DIGEST)
    assert store.sweep() == 0
    assert not list(store.manifests.glob("*.unsynced"))
