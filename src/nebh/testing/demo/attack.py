"""Act 5: whoever holds the controller's disk swaps bytes on it; the node refuses, and runs on what it ran."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.manifest import encode_manifest
from nebh.model.image import TreeManifest
from nebh.spec.parse import parse_spec
from nebh.testing.demo.stage import Plain, Stage, receipt_of

REFUSED = tuple(range(1, 256))


def hostile_controller(stage: Stage) -> None:
    """Two swaps, each refused; then the very same signed release, with the right bytes back."""
    story, act = stage.story, stage.act
    before = _serving(stage)
    new, old = _manifest(stage, "v4"), _manifest(stage, "v1")
    name, digest, other = differing_file(new, old)
    cache = ImageCache(stage.cloud.folder / "cache")
    with stage.load():
        manifest = cache.add_manifest(encode_manifest(new))
        story.say(f"on the controller's disk, other bytes already lie under the name of v4's {name}; deploy v4")
        with _swapped(stage, digest, b"".join(_read(cache, other))):
            first = stage.deploy("v4", accept=REFUSED)
        _prove_refused(stage, "swapped file", first)
        story.say(
            "that file is right again; now v1's manifest lies under the name of v4's; ask for the same release again"
        )
        _put(stage, digest, b"".join(_read(cache, digest)))
        again = ("rollback", "web", "--to", str(first["release"]))
        with _swapped(stage, manifest, encode_manifest(old)):
            second = stage.command(*again, accept=REFUSED)
        _prove_refused(stage, "swapped manifest", second)
        act.facts["same_container"] = stage.expect(
            _serving(stage) == before, f"the same container runs on: {', '.join(before)}"
        )
        story.say("the swaps are undone; ask for the same signed release once more")
        third = stage.command(*again)
        stage.wait_for_load(seconds=1)
    act.facts |= {
        "release": first["release"],
        "manifest": manifest,
        "serving_before": before,
        "control": receipt_of(third),
    }
    stage.expect(
        receipt_of(third)["outcome"] == "committed" and stage.ask() == "v4",
        f"with the right bytes back release {first['release']}, signed once, is accepted and answers",
    )


def _prove_refused(stage: Stage, what: str, command: Plain) -> None:
    receipt = receipt_of(command)
    kinds = [one["kind"] for one in stage.events(nonce=command["nonce"])]
    stage.act.facts[what.replace(" ", "_")] = {"receipt": receipt, "events": kinds}
    stage.expect(
        receipt["outcome"] == "refused" and "transaction.refused" in kinds,
        f"{what}: {receipt['outcome']} by rule {receipt['rule']}: {_short(receipt['detail'])}",
    )


def _short(text: str) -> str:
    """Return a receipt's words with digests cut and without the hint that follows them."""
    words = [f"{word[:8]}..." if len(word) == 64 else word for word in text.partition(" (")[0].split()]
    return " ".join(words)


def _serving(stage: Stage) -> list[str]:
    return [f"{one['id']} pid {one['pid']} started {one['started']}" for one in stage.cloud.serving("web")]


def _manifest(stage: Stage, version: str) -> TreeManifest:
    path = stage.specs[version]
    spec = parse_spec(path.read_text(encoding="utf-8"), file=str(path), base=str(path.parent))
    return import_image(spec.image, cache=ImageCache(stage.cloud.folder / "cache")).manifest


def differing_file(new: TreeManifest, old: TreeManifest) -> tuple[str, str, str]:
    """Return path, digest in `new` and digest in `old` of a file of one length and two contents."""
    before = {entry.path: entry for entry in old.entries}
    for entry in new.entries:
        former = before.get(entry.path)
        if former and entry.sha256 and former.sha256 != entry.sha256 and former.size == entry.size:
            return entry.path, entry.sha256, former.sha256
    raise AssertionError("two versions of one application differ in a file")


def _read(cache: ImageCache, digest: str) -> Iterator[bytes]:
    with os.fdopen(cache.objects.open(digest), "rb") as file:
        yield file.read()


def _place(stage: Stage, digest: str) -> Path:
    return stage.cloud.layout.state / "controller" / "objects" / digest[:2] / digest


@contextlib.contextmanager
def _swapped(stage: Stage, digest: str, data: bytes) -> Iterator[None]:
    """Have other bytes lie under an object's name, owned and readable as the real one, and no patch that makes the right
    ones; undone at the end, but for the patches."""
    place = _place(stage, digest)
    for patch in (stage.cloud.layout.state / "controller" / "deltas" / digest[:2]).glob(f"{digest}.*"):
        patch.unlink()
    before = place.read_bytes() if place.exists() else None
    _put(stage, digest, data)
    try:
        yield
    finally:
        if before is None:
            place.unlink()
        else:
            _put(stage, digest, before)


def _put(stage: Stage, digest: str, data: bytes) -> None:
    place = _place(stage, digest)
    home = place.parents[1].stat()
    if not place.parent.exists():
        place.parent.mkdir(mode=0o755)
        os.chown(place.parent, home.st_uid, home.st_gid)
    beside = place.with_name(".swap")
    beside.write_bytes(data)
    beside.chmod(0o444)
    os.chown(beside, home.st_uid, home.st_gid)
    beside.replace(place)
