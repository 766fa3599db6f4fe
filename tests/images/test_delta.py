"""Patches and delta packs: any two contents, bounded memory, nothing wrong gets through."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebh.images.delta import MEMORY, PATCH_LIMIT, SEGMENT, TOGETHER, Base, apply_patch, choose_bases, make_patch
from nebh.images.delta_pack import Outgoing, check_hash, decode_delta_pack, encode_delta_pack
from nebh.images.manifest import FORMAT, encode_manifest
from nebh.images.pack import PackLimits
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest

pytestmark = pytest.mark.slow


def reader(old: bytes):
    return lambda offset, length: old[offset : offset + length]


def patched(old: bytes, patch: bytes, size: int) -> bytes:
    return b"".join(apply_patch(reader(old), patch, size=size))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@settings(max_examples=60, deadline=None, database=None)
@given(old=st.binary(max_size=3000), new=st.binary(max_size=3000))
def test_any_content_is_made_from_any_other(old, new):
    assert patched(old, make_patch(old, new), len(new)) == new


@pytest.mark.parametrize("size", [100, 300_000, 3 * SEGMENT + 1, 7 * SEGMENT])
def test_what_changed_little_is_a_little_patch(size):
    old = random.Random(size).randbytes(size)
    new = b"first" + old[: size // 3] + b"inserted" * 9 + old[size // 3 + 11 :]
    patch = make_patch(old, new)
    assert len(patch) < 2000
    assert patched(old, patch, len(new)) == new


def test_a_far_move_is_found():
    old = random.Random(1).randbytes(8 * SEGMENT)
    new = old[5 * SEGMENT :] + old[: 5 * SEGMENT]
    patch = make_patch(old, new)
    assert len(patch) < SEGMENT
    assert patched(old, patch, len(new)) == new


def test_a_manifest_with_one_line_changed_is_a_little_patch():
    entries = [
        TreeEntry(path=f"a/{number:05}", type=EntryType.FILE, mode=0o644, size=1, sha256=sha(b"%d" % number))
        for number in range(20_000)
    ]
    old = encode_manifest(TreeManifest(format=FORMAT, entries=tuple(entries)))
    entries[7000] = TreeEntry(path="a/07000", type=EntryType.FILE, mode=0o644, size=2, sha256=sha(b"new"))
    new = encode_manifest(TreeManifest(format=FORMAT, entries=tuple(entries)))
    patch = make_patch(old, new)
    assert len(patch) < 500
    assert patched(old, patch, len(new)) == new


@settings(max_examples=200, deadline=None, database=None)
@given(data=st.data())
def test_a_changed_patch_gives_an_error_or_other_bytes_never_more(data):
    old = random.Random(5).randbytes(4000)
    new = old[:2000] + b"x" * 50 + old[2000:]
    patch = bytearray(make_patch(old, new))
    for _ in range(data.draw(st.integers(1, 4))):
        patch[data.draw(st.integers(0, len(patch) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(patch[: data.draw(st.integers(0, len(patch)))]) if data.draw(st.booleans()) else bytes(patch)
    total = 0
    try:
        for piece in apply_patch(reader(old), cut, size=len(new)):
            total += len(piece)
    except BadInput:
        pass
    assert total <= len(new)


def test_a_patch_cannot_ask_for_much():
    bomb = make_patch(b"", bytes(SEGMENT))
    with pytest.raises(BadInput):
        list(apply_patch(reader(b""), bomb, size=SEGMENT - 1))
    with pytest.raises(BadInput):
        list(apply_patch(reader(b""), bomb * 2, size=SEGMENT))
    with pytest.raises(BadInput):
        list(apply_patch(reader(b"short"), make_patch(b"longer than that", b"new one"), size=7))


def tree(*files: tuple[str, bytes, int]) -> TreeManifest:
    return TreeManifest(
        format=FORMAT,
        entries=tuple(
            TreeEntry(path=path, type=EntryType.FILE, mode=0o644, size=size or len(data), sha256=sha(data))
            for path, data, size in files
        ),
    )


def test_a_base_is_what_stood_there_before_or_under_the_number_before():
    old = tree(("app.py", b"1", 0), ("lib/x-1.2.so", b"2", 0), ("same", b"3", 0), ("huge", b"4", TOGETHER))
    new = tree(
        ("app.py", b"11", 0), ("lib/x-1.3.so", b"22", 0), ("same", b"3", 0), ("huge", b"44", 5), ("new", b"5", 0)
    )
    wanted = {sha(data) for data in (b"11", b"22", b"44", b"5")}
    assert choose_bases(old, new, wanted=wanted) == {
        sha(b"11"): Base(digest=sha(b"1"), size=1),
        sha(b"22"): Base(digest=sha(b"2"), size=1),
    }
    assert not choose_bases(old, new, wanted=())


def packed(*contents: bytes, patches: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    known = {sha(data): data for data in contents}
    outgoing = [Outgoing(digest, len(data)) for digest, data in known.items()]
    outgoing += [Outgoing(sha(new), len(new), base=sha(old), patch=make_patch(old, new)) for old, new in patches]
    return b"".join(encode_delta_pack(outgoing, lambda digest: [known[digest]]))


def test_a_delta_pack_brings_patches_and_whole_objects():
    old, new = b"old" * 999, b"old" * 999 + b"!"
    found = []
    for one in decode_delta_pack([packed(b"whole", b"", patches=((old, new),))]):
        found.append(patched(old, one.patch, one.size) if one.base else b"".join(one.chunks))
        assert check_hash([found[-1]], digest=one.digest)
    assert found == [b"whole", b"", new]


@pytest.mark.parametrize("cut", [0, 1, 20, 60, -1])
def test_a_cut_delta_pack_is_seen(cut):
    with pytest.raises(BadInput):
        for one in decode_delta_pack([packed(b"whole" * 99, patches=((b"a", b"b"),))[:cut]]):
            list(one.chunks)


def test_a_delta_pack_is_bounded():
    with pytest.raises(BadInput):
        list(decode_delta_pack([packed(b"1", b"2")], limits=PackLimits(objects=1)))
    with pytest.raises(BadInput):
        list(decode_delta_pack([packed(b"12345")], limits=PackLimits(object=4)))
    with pytest.raises(BadInput):
        list(decode_delta_pack([packed(b"1") + b"more"]))
    huge = Outgoing("a" * 64, 5, base="b" * 64, patch=bytes(PATCH_LIMIT + 1))
    with pytest.raises(BadInput):
        list(decode_delta_pack(encode_delta_pack([huge], lambda _: [])))


_PEAK = """
import hashlib, os, random, re, sys
from pathlib import Path
from nebh.images.delta import apply_patch, make_patch
from nebh.images.objects import ObjectFolder, read_chunks
from nebh.images.pack import decode_pack, encode_pack

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
_LARGE = """
folder, size = Path(sys.argv[1]), int(sys.argv[2])
with (folder / "big").open("wb") as file:
    file.write(b"begin")
    file.truncate(size)
read = lambda _: read_chunks(os.open(folder / "big", os.O_RDONLY))
hasher = hashlib.sha256()
for chunk in read(""):
    hasher.update(chunk)
digest = hasher.hexdigest()
before = peak()
store = ObjectFolder(folder / "objects")
for one in decode_pack(encode_pack([(digest, size)], read)):
    store.put(one.digest, one.size, one.chunks)
assert store.size(digest) == size
print(peak() - before)
"""
_PATCH = """
data = random.Random(1).randbytes(int(sys.argv[2]))
new = b"new" + data
before = peak()
patch = make_patch(data, new)
place = 0
for piece in apply_patch(lambda offset, length: data[offset : offset + length], patch, size=len(new)):
    assert piece == new[place : place + len(piece)]
    place += len(piece)
assert place == len(new) and len(patch) < 4096
print(peak() - before)
"""


def measure(program: str, folder, size: int) -> int:
    """Return by how many KiB the memory of a process of its own grew."""
    argv = [sys.executable, "-c", _PEAK + program, str(folder), str(size)]
    done = subprocess.run(argv, env={"PYTHONPATH": ":".join(filter(None, sys.path))}, capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("size", [64 << 20, pytest.param(2 << 30, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_a_large_file_passes_in_bounded_memory(tmp_path, size):
    grown = measure(_LARGE, tmp_path, size)
    print(f"{size} bytes packed, unpacked and stored with {grown} KiB more than before")
    assert grown < 32 << 10


@pytest.mark.parametrize("size", [4 << 20, 8 << 20])
def test_a_patch_takes_the_same_memory_whatever_the_sizes(tmp_path, size):
    grown = measure(_PATCH, tmp_path, size)
    print(f"patch of {size} bytes made and applied with {grown} KiB more than before")
    assert grown < MEMORY >> 10
