"""Packs and object folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from nebh.images.objects import ObjectFolder
from nebh.images.pack import HEAD, PackLimits, check_wanted, decode_pack, encode_pack
from nebh.model.errors import BadInput, NotFound


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack(*contents: bytes) -> bytes:
    kept = {sha(data): data for data in contents}
    return b"".join(encode_pack([(sha(data), len(data)) for data in contents], lambda digest: [kept[digest]]))


def unpack(data: bytes, *, step: int = 1 << 16, limits: PackLimits | None = None) -> list[tuple[str, bytes]]:
    chunks = (data[at : at + step] for at in range(0, len(data), step))
    return [(one.digest, b"".join(one.chunks)) for one in decode_pack(chunks, limits=limits)]


@settings(max_examples=50, deadline=None)
@given(contents=st.lists(st.binary(max_size=200)), step=st.integers(1, 50))
def test_round_trip(contents: list[bytes], step: int) -> None:
    assert unpack(pack(*contents), step=step) == [(sha(data), data) for data in contents]


def test_every_cut_is_seen() -> None:
    data = pack(b"one", os.urandom(300), b"three")
    for end in range(len(data) - 4):
        with pytest.raises(BadInput):
            unpack(data[:end])


def compress(*parts: bytes) -> bytes:
    return zstandard.compress(b"".join(parts))


def test_lies_are_refused() -> None:
    one = bytes.fromhex(sha(b"one"))
    end = HEAD.pack(bytes(32), 1)
    for data, reason in [
        (compress(HEAD.pack(one, 3), b"two", end), "SHA-256"),
        (compress(HEAD.pack(one, 0), end), "empty"),
        (compress(HEAD.pack(one, 3), b"one", HEAD.pack(bytes(32), 2)), "says it has 2"),
        (compress(HEAD.pack(one, 3), b"one", end, b"x"), "follow"),
        (compress(HEAD.pack(one, 3), b"one", end) + b"x" * 500_000, "cannot read a pack"),
        (compress(HEAD.pack(one, 3), b"one", end) + compress(end), "follow"),
        (compress(HEAD.pack(one, 1 << 60)), "limit"),
        (b"garbage" * 10, "cannot read a pack"),
        (b"", "cut"),
    ]:
        with pytest.raises(BadInput, match=reason):
            unpack(data)
    with pytest.raises(BadInput, match="limit"):
        unpack(pack(b"1", b"2", b"3"), limits=PackLimits(objects=2))
    with pytest.raises(BadInput, match="limit"):
        unpack(pack(b"123", b"234"), limits=PackLimits(bytes=5))
    with pytest.raises(BadInput, match="nobody asked"):
        check_wanted(sha(b"1"), 1, wanted={sha(b"1"): 2})


def test_a_bomb_is_read_in_pieces_and_only_to_its_limit() -> None:
    bomb = compress(HEAD.pack(bytes.fromhex(sha(b"x")), 1 << 30), bytes(64 << 20))
    with pytest.raises(BadInput, match="limit"):
        unpack(bomb, limits=PackLimits(object=1 << 20))
    largest = 0
    with pytest.raises(BadInput, match="cut inside"):
        for one in decode_pack(iter([bomb])):
            for chunk in one.chunks:
                largest = max(largest, len(chunk))
    assert largest <= 1 << 20


def test_wrong_length_when_packing() -> None:
    with pytest.raises(BadInput, match="its length is 3"):
        list(encode_pack([(sha(b"one"), 4)], lambda _: [b"one"]))


def test_folder(tmp_path: Path) -> None:
    folder = ObjectFolder(tmp_path / "objects")
    digest = sha(b"hello")
    assert folder.missing([digest, digest]) == (digest,)
    with pytest.raises(BadInput):
        folder.put(digest, 5, iter([b"hellO"]))
    with pytest.raises(BadInput):
        folder.put("../../x", 5, iter([b"hello"]))
    assert not folder.has(digest)
    folder.put(digest, 5, iter([b"he", b"llo"]))
    folder.sync()
    assert (folder.has(digest), folder.size(digest), b"".join(folder.read(digest))) == (True, 5, b"hello")
    assert list(folder.digests()) == [digest]
    with pytest.raises(NotFound):
        folder.open(sha(b"no"))

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise OSError("the line went dead")

    with pytest.raises(OSError, match="dead"):
        folder.put(sha(b"xy"), 2, broken())
    assert folder.sweep() == 0
    folder.remove(digest)
    folder.remove(digest)
    assert not folder.has(digest)


def test_from_folder_to_folder(tmp_path: Path) -> None:
    one, two = ObjectFolder(tmp_path / "1"), ObjectFolder(tmp_path / "2")
    contents = [os.urandom(size) for size in (1, 1000, 3 << 20)]
    for data in contents:
        one.put(sha(data), len(data), iter([data]))
    wanted = [(digest, one.size(digest)) for digest in one.digests()]
    for packed in decode_pack(encode_pack(wanted, one.read)):
        two.put(packed.digest, packed.size, packed.chunks)
    assert list(two.digests()) == list(one.digests())
