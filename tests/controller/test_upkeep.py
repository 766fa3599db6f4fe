"""The controller keeps what the one rule says, and mends what decayed from a mirror."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nebh.controller.collecting import TAGS, collect, find_wanted
from nebh.controller.core import Core
from nebh.controller.identity import NOBODY
from nebh.controller.scrubbing import scrub_now
from nebh.controller.storing import find_missing
from nebh.images.manifest import EMPTY_SHA256, FORMAT, MOUNT_DIRECTORIES, MOUNT_FILES, encode_manifest
from nebh.model.api import Digests, DoorTokenRequest, NodeReport
from nebh.model.image import EntryType, ImageRef, TreeEntry, TreeManifest
from nebh.model.node import NodeList, Settings
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.running import Running
from nebh.model.secret import Box, SecretList
from nebh.model.service import Limits, Placement, Replicas
from nebh.model.trust import TrustedSet
from nebh.signing.statements import Seed
from nebh.state.migrate import migrate
from nebh.state.nodes import record_node

CLUSTER = "c" * 32
OCI = "application/vnd.oci.image.manifest.v1+json"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def core(tmp_path) -> Iterator[Core]:
    migrate(tmp_path / "controller.db")
    made = Core(state=tmp_path, signer=Seed(b"c" * 32), tools=None, now=lambda: 10_000_000, version="test")
    yield made
    made.close()
    made.database.close()


def make_image(core: Core, content: bytes) -> str:
    """Store an image of one file of its own; return its digest."""
    entries = [TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755) for path in MOUNT_DIRECTORIES]
    entries += [TreeEntry(path=path, type=EntryType.FILE, mode=0o644, sha256=EMPTY_SHA256) for path in MOUNT_FILES]
    entries.append(TreeEntry(path="app", type=EntryType.FILE, mode=0o755, size=len(content), sha256=sha(content)))
    data = encode_manifest(TreeManifest(format=FORMAT, entries=tuple(sorted(entries, key=lambda one: one.path))))
    core.objects.put(sha(content), len(content), [content])
    core.objects.put(sha(data), len(data), [data])
    return sha(data)


def list_releases(core: Core, manifests: dict[int, str], *, pins: tuple[int, ...] = (), retention: int = 2) -> None:
    """Let the published set list these releases of `web`."""
    policy = Policy(
        cluster_id=CLUSTER,
        service="web",
        version=1,
        epoch=1,
        signed_at=1,
        state=ServiceState.RUNNING,
        placement=Placement(),
        replicas=Replicas(),
        limits=Limits(memory=1),
        net=NetPolicy(),
        pins=pins,
    )
    releases = {
        f"release/web/{counter}.json": Release(
            cluster_id=CLUSTER,
            service="web",
            epoch=1,
            counter=counter,
            signed_at=1,
            images={"main": ImageRef(manifest=digest, bytes=1, entries=1)},
            argv=("/app",),
            retention=retention,
        )
        for counter, digest in manifests.items()
    }
    core.trusted = TrustedSet(
        source="x",
        versions={"snapshot": 1, "root": 1},
        digests={},
        expires={},
        cluster_ids=(CLUSTER,),
        top_level=(),
        delegations=(),
        operator_keys=(),
        online_keys="",
        newest_signed_at=1,
        nodes=NodeList(cluster_id=CLUSTER),
        settings=Settings(cluster_id=CLUSTER, name="home"),
        policies={"web": policy},
        releases=releases,
        release_digests={},
    )


def collected(core: Core, *, grace: float = -1.0):
    return collect(core, find_wanted(core), now=time.time(), grace=grace)


def test_the_last_pinned_and_running_releases_stay_and_no_other(core):
    images = {counter: make_image(core, b"release %d" % counter) for counter in range(1, 8)}
    list_releases(core, images, pins=(2,))
    running = Running(service="web", epoch=1, counter=4, replicas=1, ready=1)
    with core.database.begin() as connection:
        record_node(connection, node_id="1" * 32, report=NodeReport(running=(running,)), at=1)
    done = collected(core)
    held = {counter for counter, digest in images.items() if core.objects.has(digest)}
    assert held == {2, 4, 6, 7}
    assert {counter for counter in images if core.objects.has(sha(b"release %d" % counter))} == held
    assert (done.objects, done.blobs) == (6, 0)
    assert collected(core).objects == 0


def test_what_was_sent_or_asked_for_today_stays(core):
    digest = make_image(core, b"not signed yet")
    old = make_image(core, b"forgotten")
    for one in (digest, sha(b"not signed yet"), old, sha(b"forgotten")):
        os.utime(core.objects._place(one), (1, 1))
    list_releases(core, {})
    find_missing(core, Digests(digests=(digest, sha(b"not signed yet"))))
    assert collected(core, grace=1000).objects == 2
    assert core.objects.has(digest)
    assert not core.objects.has(old)


def test_a_patch_goes_with_what_it_makes(core):
    kept = make_image(core, b"kept")
    core.deltas.put(kept, sha(b"kept"), b"patch")
    core.deltas.put(sha(b"gone"), kept, b"patch")
    list_releases(core, {1: kept})
    collected(core)
    assert [one[:2] for one in core.deltas.names()] == [(kept, sha(b"kept"))]


def push(core: Core, tag: str, layer: bytes, *, now: int) -> None:
    named = [{"digest": f"sha256:{sha(data)}", "size": len(data)} for data in (b"{}", layer)]
    for data in (b"{}", layer):
        name = core.door.begin_upload("web", now=now)
        upload = core.door.upload("web", name)
        core.door.add(upload, [data], start=None)
        core.door.finish(name, upload, f"sha256:{sha(data)}", now=now)
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": named[0], "layers": named[1:]}).encode()
    core.door.put_manifest("web", tag, body, media_type=OCI, by="t", now=now)


def test_the_newest_tags_of_the_door_stay(core):
    for number in range(TAGS + 3):
        push(core, f"v{number}", b"layer %d" % number, now=number)
    push(core, "v0", b"layer new", now=10_000)
    done = collected(core)
    assert len(core.door.tags("web")) == TAGS
    assert core.door.has_blob("web", f"sha256:{sha(b'layer new')}")
    assert not core.door.blobs.has(sha(b"layer 0"))
    assert done.blobs == 8, "four layers and four manifests"
    for tag in core.door.tags("web"):
        digest, _, _ = core.door.manifest("web", tag)
        assert core.door.blobs.has(digest.removeprefix("sha256:"))


def test_a_door_token_outlives_a_restart(core, tmp_path):
    secret = core.door.make_token(DoorTokenRequest(repository="web"), caller=NOBODY, now=0).secret
    core.close()
    assert core.door.enter(secret, now=1).scopes == ("web",)


@contextlib.contextmanager
def mirror_of(folder) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def damage(core: Core, digest: str) -> None:
    place = core.objects._place(digest)
    place.chmod(0o644)
    place.write_bytes(b"x" * place.stat().st_size)


def test_a_decayed_object_is_mended_from_a_mirror(core, tmp_path):
    digests = [make_image(core, b"one"), make_image(core, b"two")]
    site = tmp_path / "site" / "objects" / sha(b"one")[:2]
    site.mkdir(parents=True)
    (site / sha(b"one")).write_bytes(b"one")
    list_releases(core, {1: digests[0], 2: digests[1]})
    assert asyncio.run(scrub_now(core, rate=0)) == (0, 0)
    with mirror_of(tmp_path / "site") as url:
        lying = "http://127.0.0.1:1/nobody"
        core.trusted = replace(core.trusted, settings=replace(core.trusted.settings, mirrors=(lying, url)))
        damage(core, sha(b"one"))
        damage(core, sha(b"two"))
        assert asyncio.run(scrub_now(core, rate=0)) == (2, 1)
    assert b"".join(core.objects.read(sha(b"one"))) == b"one"
    assert not core.objects.has(sha(b"two")), "what no mirror has is asked for at the next push"


def test_boxes_of_signed_secrets_stay_and_others_go(core):
    list_releases(core, {})
    data = {sha(one): one for one in (b"a box that a list names", b"the box of the version before")}
    for digest, box in data.items():
        core.objects.put(digest, len(box), [box])
    named = sha(b"a box that a list names")
    box = Box(digest=named, bytes=23)
    listed = SecretList(cluster_id=CLUSTER, service="web", name="db", version=2, signed_at=1, boxes={"n" * 64: box})
    assert core.trusted is not None
    core.trusted = replace(core.trusted, secrets={"web/db": listed})
    collect(core, find_wanted(core), now=time.time() + 10, grace=0)
    assert set(core.objects.digests()) == {named}
