"""A decayed object is found, and good bytes take its place under every name, with every tree as its manifest says."""

from __future__ import annotations

import hashlib

import pytest

from nebh.host.throttle import Throttle
from nebh.images.manifest import EMPTY_SHA256, FORMAT, MOUNT_DIRECTORIES, MOUNT_FILES, encode_manifest
from nebh.images.mending import Decayed, find_decayed, mend
from nebh.images.store import NodeStore
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_tree(store: NodeStore, files: dict[str, tuple[bytes, int]]) -> str:
    folders = {path.rpartition("/")[0] for path in files} - {""}
    entries = [TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o555) for path in (*MOUNT_DIRECTORIES, *folders)]
    entries += [TreeEntry(path=path, type=EntryType.FILE, mode=0o644, sha256=EMPTY_SHA256) for path in MOUNT_FILES]
    for path, (data, mode) in files.items():
        entries.append(TreeEntry(path=path, type=EntryType.FILE, mode=mode, size=len(data), sha256=sha(data)))
        store.put(sha(data), len(data), [data])
    manifest = TreeManifest(format=FORMAT, entries=tuple(sorted(entries, key=lambda one: one.path)))
    data = encode_manifest(manifest)
    store.keep_manifest(sha(data), data)
    store.materialise(sha(data), manifest)
    return sha(data)


def decay(store: NodeStore, data: bytes, mode: int) -> None:
    path = store.objects / sha(data)[:2] / f"{sha(data)}.{mode:03o}"
    path.chmod(0o644)
    path.write_bytes(b"?" * len(data))
    path.chmod(mode)


@pytest.fixture
def store(tmp_path) -> NodeStore:
    return NodeStore(tmp_path)


def test_a_sound_store_has_nothing_to_mend(store):
    make_tree(store, {"app": (b"program", 0o755)})
    assert list(find_decayed(store, Throttle())) == []


def test_every_name_gets_the_good_bytes(store):
    files = {"app": (b"program", 0o755), "lib/same": (b"program", 0o755), "lib/other": (b"library", 0o644)}
    trees = [make_tree(store, files), make_tree(store, {"app": (b"program", 0o755)})]
    decay(store, b"program", 0o755)
    assert store.verify_tree(store.manifest(trees[0]), digest=trees[0])
    (found,) = find_decayed(store, Throttle())
    assert found == Decayed(sha(b"program"), 0o755, len(b"program"))
    with pytest.raises(BadInput):
        mend(store, found, [b"not thi"])
    assert mend(store, found, [b"program"]) == 3
    for digest in trees:
        assert store.verify_tree(store.manifest(digest), digest=digest) == ()
    assert list(find_decayed(store, Throttle())) == []
    assert len({(store.trees / trees[0] / path).stat().st_ino for path in ("app", "lib/same")}) == 1


def test_what_no_manifest_names_has_no_size(store):
    store.put(sha(b"stray"), 5, [b"stray"])
    decay(store, b"stray", 0o644)
    assert [one.size for one in find_decayed(store, Throttle())] == [-1]
