"""Manifests: canonical bytes, structure, entry points."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.images.entrypoint import check_entrypoint
from nebh.images.manifest import accept_manifest, decode_manifest, encode_manifest, find_problem, refer_to
from nebh.model.errors import BadInput, Refused
from nebh.model.image import EntryType, TreeEntry, TreeManifest

GOLDEN = Path(__file__).parent.parent / "golden" / "image_manifest.json"
DIR, FILE, LINK = EntryType.DIRECTORY, EntryType.FILE, EntryType.LINK
SHA = hashlib.sha256(b"x").hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()
BASE = (
    *(TreeEntry(path=path, type=DIR, mode=0o755) for path in ("dev", "etc", "proc", "tmp")),
    *(TreeEntry(path=f"etc/{n}", type=FILE, mode=0o644, sha256=EMPTY) for n in ("hostname", "hosts", "resolv.conf")),
)


def image(*entries: TreeEntry, base: tuple[TreeEntry, ...] = BASE) -> TreeManifest:
    return TreeManifest(format=1, entries=tuple(sorted((*base, *entries), key=lambda entry: entry.path)))


def file(path: str, mode: int = 0o644) -> TreeEntry:
    return TreeEntry(path=path, type=FILE, mode=mode, size=1, sha256=SHA)


def link(path: str, target: str) -> TreeEntry:
    return TreeEntry(path=path, type=LINK, mode=0o777, target=target)


def folder(path: str, mode: int = 0o755) -> TreeEntry:
    return TreeEntry(path=path, type=DIR, mode=mode)


def test_bytes_are_held() -> None:
    """A changed encoding would give every image of every cluster another digest."""
    data = encode_manifest(image(folder("bin"), file("bin/wéb", 0o755), link("l", "bin/wéb")))
    assert data == GOLDEN.read_bytes().rstrip(b"\n")
    assert encode_manifest(decode_manifest(data)) == data


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (file("/a"), "absolute"),
        (file("../a"), "component '..'"),
        (file("etc/../a"), "component '..'"),
        (file("etc//a"), "component ''"),
        (file("etc/./a"), "component '.'"),
        (file("a/"), "component ''"),
        (file(""), "empty"),
        (file("a\0b"), "control"),
        (file("a\x85b"), "control"),
        (file("a\udc80"), "UTF-8"),
        (file("x" * 256), "component is longer"),
        (file("nowhere/a"), "parent is not a directory"),
        (file("etc/hosts/a"), "parent is not a directory"),
        (file("dev/null"), "/dev"),
        (folder("proc/self"), "/proc"),
        (file("sys"), "/sys"),
        (link("sys", "/"), "/sys"),
        (file("a", 0o4755), "mode 4755"),
        (folder("a", 0o1777), "mode 1777"),
        (file("a", -1), "mode"),
        (link("a", ""), "no target"),
        (link("a", "b\n"), "control"),
        (link("a", "x" * 2000), "longer than"),
        (replace(link("a", "b"), mode=0o755), "mode 777"),
        (replace(folder("a"), size=4), "no content"),
        (replace(folder("a"), target="b"), "no target"),
        (replace(file("a"), target="b"), "no target"),
        (replace(file("a"), sha256="abc"), "SHA-256"),
        (replace(file("a"), sha256=SHA.upper()), "SHA-256"),
        (replace(file("a"), size=-1), "size"),
        (replace(file("a"), size=0), "empty"),
        (replace(file("a"), sha256=EMPTY), "empty"),
    ],
)
def test_structure(entry: TreeEntry, reason: str) -> None:
    assert reason in find_problem(image(entry))
    assert find_problem(image(file("a"))) == ""


def test_whole() -> None:
    assert "two sizes" in find_problem(image(file("a"), replace(file("b"), size=2)))
    assert "twice" in find_problem(image(file("a"), file("a")))
    assert "order" in find_problem(TreeManifest(format=1, entries=(*BASE, file("a"))))
    assert "format" in find_problem(TreeManifest(format=2, entries=BASE))
    for lacking in BASE:
        less = tuple(entry for entry in BASE if not (entry.path + "/").startswith(lacking.path + "/"))
        assert lacking.path in find_problem(image(base=less))
        linked = image(link(lacking.path, "/x"), base=less)
        assert find_problem(linked)


def test_accept() -> None:
    manifest = image(file("a"))
    data, ref = encode_manifest(manifest), refer_to(manifest)
    assert accept_manifest(data, ref=ref) == manifest
    bad = encode_manifest(image(file("dev/null")))
    for bytes_, wanted in [
        (data, replace(ref, manifest="0" * 64)),
        (data, replace(ref, bytes=2)),
        (data, replace(ref, entries=1)),
        (data, replace(ref, manifest_bytes=1)),
        (data + b" ", ref),
        (bad, replace(refer_to(image(file("a"))), manifest=hashlib.sha256(bad).hexdigest())),
        (b"{}", replace(ref, manifest=hashlib.sha256(b"{}").hexdigest())),
    ]:
        with pytest.raises(Refused) as caught:
            accept_manifest(bytes_, ref=wanted)
        assert caught.value.rule == "N9"


def test_only_canonical_bytes_are_read() -> None:
    data = encode_manifest(image(file("a")))
    for other in (
        data.replace(b":", b": ", 1),
        data.replace(b'"format":1', b'"format":1,"format":1'),
        data.replace(b'"format":1', b'"format":1.0'),
        data.replace(b'{"entries"', b'{"extra":1,"entries"') if data.startswith(b'{"entries"') else data + b"\n",
        data[:-1],
        b"[" * 100_000,
    ):
        with pytest.raises(BadInput):
            decode_manifest(other)


def test_twenty_thousand_entries_are_quick() -> None:
    manifest = image(*(replace(file(f"f{number:05}"), sha256=f"{number:064x}") for number in range(20_000)))
    data, ref = encode_manifest(manifest), refer_to(manifest)
    begin = time.process_time()
    accept_manifest(data, ref=ref)
    assert time.process_time() - begin < 5


ROOT = image(
    folder("usr"),
    folder("usr/bin"),
    file("usr/bin/python3.11", 0o755),
    link("usr/bin/python3", "python3.11"),
    link("bin", "usr/bin"),
    link("abs", "/bin/python3"),
    link("loop", "/loop"),
    link("out", "../../../usr/bin/python3"),
    link("gone", "/nowhere"),
    file("notes", 0o644),
    file("mine", 0o700),
    folder("closed", 0o700),
    file("closed/tool", 0o755),
)


@pytest.mark.parametrize("path", ["/usr/bin/python3.11", "/bin/python3", "/abs", "/out", "//usr/./bin/../bin/python3"])
def test_entrypoint_is_found(path: str) -> None:
    assert check_entrypoint(ROOT, path) is None


@pytest.mark.parametrize(
    ("path", "reason", "hint"),
    [
        ("/usr/local/bin/python3.11", "the image has no /usr/local", "did you mean /usr/bin/python3.11"),
        ("/usr/bin/pyton3.11", "the image has no", "/usr/bin/python3.11"),
        ("python3", "not an absolute path", "/usr/bin/python3"),
        ("/loop", "circle", ""),
        ("/gone", "the image has no /nowhere", ""),
        ("/usr/bin", "directory", ""),
        ("/", "directory", ""),
        ("/notes", "mode 644", "chmod"),
        ("/mine", "mode 700", "chmod"),
        ("/closed/tool", "closed", ""),
        ("/notes/x", "not a directory", ""),
    ],
)
def test_entrypoint_is_not_there(path: str, reason: str, hint: str) -> None:
    error = check_entrypoint(ROOT, path)
    assert error is not None
    assert reason in error.message
    assert hint in error.hint
