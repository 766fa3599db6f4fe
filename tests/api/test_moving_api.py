"""Images sent to a real controller: what it lacks only, as changes of what it holds, whatever breaks meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
import threading

import pytest
import zstandard

from nebh.cli import moving
from nebh.cli.moving import Sender
from nebh.client.api_client import Client
from nebh.host.throttle import Throttle
from nebh.images.cache import ImageCache
from nebh.images.delta import make_patch
from nebh.images.delta_pack import Outgoing, decode_delta_pack, encode_delta_pack
from nebh.images.manifest import FORMAT, MOUNT_DIRECTORIES, MOUNT_FILES, encode_manifest
from nebh.images.pack import decode_pack
from nebh.model.errors import BadInput, NotFound, Unreachable
from nebh.model.image import EntryType, TreeEntry, TreeManifest
from nebh.testing.bench.wire import packs_of

pytestmark = pytest.mark.e2e


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_image(cache: ImageCache, files: dict[str, bytes]) -> TreeManifest:
    """Return the manifest of an image with these files below /app, its contents in the cache."""
    held = {**{f"app/{name}": data for name, data in files.items()}, **dict.fromkeys(MOUNT_FILES, b"x")}
    entries = [TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755) for path in (*MOUNT_DIRECTORIES, "app")]
    for path, data in held.items():
        cache.objects.put(sha(data), len(data), [data])
        entries.append(TreeEntry(path=path, type=EntryType.FILE, mode=0o644, size=len(data), sha256=sha(data)))
    return TreeManifest(format=FORMAT, entries=tuple(sorted(entries, key=lambda one: one.path)))


def a_tree(seed: int, *, files: int = 2000) -> dict[str, bytes]:
    """Return a small application: modules, and one library of 3 MB."""
    chance = random.Random(seed)
    made = {f"m{number:05}.py": chance.randbytes(chance.randrange(200, 3000)) for number in range(files)}
    return {**made, "libbig.so": chance.randbytes(3 << 20)}


@pytest.fixture
def cache(tmp_path):
    return ImageCache(tmp_path)


def downloaded(client: Client, digest: str) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(b"".join(client.download_rest(digest, offset=0)))


def test_a_changed_file_moves_a_few_bytes(cloud, cache):
    files = a_tree(1)
    first = Sender(cache, cloud.as_operator).send(make_image(cache, files))
    assert (first.objects, first.patched) == (len(files) + 2, 0)
    changed = files["libbig.so"][: 1 << 20] + b"one more line" + files["libbig.so"][1 << 20 :]
    manifest = make_image(cache, {**files, "libbig.so": changed})
    second = Sender(cache, cloud.as_operator).send(manifest)
    print(f"first push {first.sent} bytes of {first.bytes}; one file edited: {second.sent} bytes of {second.bytes}")
    assert (second.objects, second.patched) == (2, 2)
    assert second.sent < 64 << 10
    assert downloaded(cloud.as_operator(), sha(changed)) == changed
    assert Sender(cache, cloud.as_operator).send(manifest).sent == 0


def test_what_a_first_push_sends_is_what_the_bench_takes_apart(make_cloud, cache):
    fresh = make_cloud()  # holds nothing of other tests
    fresh.start()
    fresh.publish(fresh.genesis.publication, fresh.nobody())
    files = a_tree(3, files=4100)  # more than two packs hold
    manifest = make_image(cache, files)
    sent = Sender(cache, fresh.as_operator).send(manifest).sent
    data = encode_manifest(manifest)
    total, named, contents = packs_of(manifest, data, sha(data), cache.objects)
    assert total == sent
    plain = sum(map(len, files.values()))  # of random bytes nothing becomes shorter
    assert plain < contents < plain * 1.001
    assert 32 * len(files) < named < len(data)
    assert 32 * len(files) < total - named - contents < 80 * len(files)


def test_an_image_of_many_files_is_not_listed_to_be_sent(cloud, cache):
    files = a_tree(7, files=8000)
    Sender(cache, cloud.as_operator).send(make_image(cache, files))
    manifest = make_image(cache, {**files, "m00007.py": b"edited"})
    sent: list[int] = []

    def counting() -> Client:
        client = cloud.as_operator()
        send = client._send

        def counted(method, target, *, headers, body, timeout):
            made = (lambda: (sent.append(len(one)) or one for one in body())) if callable(body) else body
            sent.append(len(method + target) + 100 + sum(map(len, map(str, headers.items()))))
            sent.append(0 if callable(body) else len(body))
            return send(method, target, headers=headers, body=made, timeout=timeout)

        client._send = counted
        return client

    moved = Sender(cache, counting).send(manifest)
    print(f"one file of {len(files)} edited: {sum(sent)} bytes in all requests, {moved.sent} of them the delta pack")
    assert sum(sent) < 64 << 10


def test_a_manifest_that_is_not_its_own_any_more_is_sent_again(cloud, cache):
    files = a_tree(3, files=3)
    manifest = make_image(cache, files)
    Sender(cache, cloud.as_operator).send(manifest)
    digest = cache.add_manifest(encode_manifest(manifest))
    place = cloud.state / "objects" / digest[:2] / digest
    whole = place.read_bytes()
    other = encode_manifest(make_image(cache, {"other": b"another image"}))
    for count, wrong in enumerate((other, b"no manifest"), start=1):
        place.unlink()
        place.write_bytes(wrong)
        moved = Sender(cache, cloud.as_operator).send(manifest)
        assert (moved.objects, place.read_bytes()) == (1, whole)
        said = [one.kind for one in cloud.as_operator().events(after=0).events]
        assert said.count("object.damaged") == count


def test_nodes_get_the_patches_and_the_rest_of_what_was_cut(cloud, cache):
    files = a_tree(2, files=5)
    Sender(cache, cloud.as_operator).send(make_image(cache, files))
    old = files["libbig.so"]
    new = old + b"end"
    Sender(cache, cloud.as_operator).send(make_image(cache, {**files, "libbig.so": new}))
    node = cloud.as_node()
    (found,) = decode_delta_pack(node.download_patches((sha(new), sha(old))))
    assert (found.digest, found.base, found.size) == (sha(new), sha(old), len(new))
    assert len(found.patch) < 2000
    frame = b"".join(node.download_rest(sha(new), offset=len(old)))
    assert zstandard.ZstdDecompressor().decompressobj().decompress(frame) == b"end"
    for digest, offset, error in ((sha(new), len(new) + 1, NotFound), ("0" * 64, 0, NotFound), ("0" * 63, 0, BadInput)):
        with pytest.raises(error):
            list(node.download_rest(digest, offset=offset))


def test_a_patch_that_makes_something_else_is_not_kept(cloud):
    client = cloud.as_operator()
    old, new = os.urandom(500), os.urandom(500)
    whole = Outgoing(sha(old), len(old))
    lies = (
        Outgoing(sha(new), len(new), base=sha(old), patch=make_patch(old, b"x" * 500)),
        Outgoing(sha(new), len(new), base="1" * 64, patch=make_patch(old, new)),
        Outgoing(sha(new), len(new), base=sha(old), patch=b"no patch"),
    )
    stored = client.upload_deltas(lambda: encode_delta_pack([whole, *lies], lambda _: [old]))
    assert (stored.objects, client.missing_objects((sha(old), sha(new)))) == (1, (sha(new),))
    with pytest.raises(BadInput):
        client.upload_deltas(lambda: encode_delta_pack([Outgoing(sha(new), 500)], lambda _: [old]))
    assert client.missing_objects((sha(new),)) == (sha(new),)


def test_what_a_patch_does_not_bring_goes_whole(cloud, cache, monkeypatch):
    files = a_tree(3, files=5)
    Sender(cache, cloud.as_operator).send(make_image(cache, files))
    monkeypatch.setattr(moving, "make_patch", lambda _, new: make_patch(b"", new[::-1]))
    new = files["libbig.so"][:1000] * 3000
    Sender(cache, cloud.as_operator).send(make_image(cache, {**files, "libbig.so": new}))
    assert downloaded(cloud.as_operator(), sha(new)) == new


class Breaking:
    """Clients whose uploads break now and then, in the middle."""

    def __init__(self, cloud, breaks: int) -> None:
        self.cloud, self.left, self.lock = cloud, breaks, threading.Lock()

    def client(self) -> Client:
        client = self.cloud.as_operator()
        upload = client.upload_deltas

        def broken(make_pack):
            with self.lock:
                breaks, self.left = self.left > 0, self.left - 1
            if breaks:
                chunks = list(make_pack())
                half = b"".join(chunks)[: sum(map(len, chunks)) // 2]
                with pytest.raises(BadInput):
                    upload(lambda: [half])
                raise Unreachable("the connection broke")
            return upload(make_pack)

        client.upload_deltas = broken
        return client


def test_a_broken_upload_goes_on_where_it_broke(cloud, cache, monkeypatch):
    monkeypatch.setattr(moving, "BATCH", 1 << 20)
    manifest = make_image(cache, a_tree(4, files=1500))
    said: list[str] = []
    moved = Sender(cache, Breaking(cloud, 2).client, pause=0.01, say=said.append).send(manifest)
    assert said
    assert moved.sent < moved.bytes * 1.9, "what came whole was not sent again"
    assert cloud.as_operator().missing_objects(tuple(one.sha256 for one in manifest.entries if one.size)) == ()
    manifest = make_image(cache, a_tree(5, files=3))
    with pytest.raises(Unreachable):
        Sender(cache, Breaking(cloud, 1000).client, pause=0.0).send(manifest)


def test_a_limited_rate_is_kept_by_all_connections_together(cloud, cache):
    slept: list[float] = []
    throttle = Throttle(1 << 20, monotonic=lambda: 0.0, sleep=slept.append)
    moved = Sender(cache, cloud.as_operator, throttle=throttle).send(make_image(cache, a_tree(6, files=3)))
    assert max(slept) == pytest.approx(moved.sent / (1 << 20) - 1.0)


def test_objects_of_the_old_kind_of_pack_still_travel(cloud, cache):
    manifest = make_image(cache, {"a": os.urandom(50)})
    Sender(cache, cloud.as_operator).send(manifest)
    digest = next(one.sha256 for one in manifest.entries if one.path == "app/a")
    assert [one.digest for one in decode_pack(cloud.as_node().download_objects((digest,)))] == [digest]
