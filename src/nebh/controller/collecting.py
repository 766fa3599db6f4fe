"""Garbage collection of the controller's objects, by the nodes' one rule: what the last N releases, pinned ones, running
ones and those being deployed need stays. Whatever was written or asked for within a day stays too: its release may be
about to be signed."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from nebh.controller.core import Core
from nebh.images.manifest import MAX_MANIFEST, decode_manifest
from nebh.model.api import Collected, DeploymentState, DoorImage
from nebh.model.errors import BadInput, NebhError, NotFound
from nebh.model.event import Severity
from nebh.planning.retention import ReleaseFacts, ServiceFacts, keep_manifests
from nebh.state import door as memory
from nebh.state.deployments import deployments_of
from nebh.state.nodes import read_nodes

GRACE_S: Final = 86_400
FIRST_S: Final = 600.0
EVERY_S: Final = 6 * 3600.0
TAGS: Final = 20
"""Tags kept of each repository at the registry door."""


@dataclass(frozen=True)
class Wanted:
    """What must stay, as the database said it. manifests: of releases, and the bundles of their files; tags: at the door;
    boxes: sealed secrets of the signed lists."""

    manifests: frozenset[str]
    tags: tuple[DoorImage, ...]
    boxes: frozenset[str] = frozenset()


def find_wanted(core: Core) -> Wanted:
    """Return what must stay. In the event loop: it asks the database."""
    tags: dict[str, list[DoorImage]] = defaultdict(list)
    for one in core.door.images().images:
        tags[one.repository].append(one)
    kept = tuple(one for held in tags.values() for one in held[:TAGS])
    lists = core.trusted.secrets.values() if core.trusted is not None else ()
    boxes = frozenset(box.digest for one in lists for box in one.boxes.values())
    return Wanted(keep_manifests(_services(core)), kept, boxes)


def _services(core: Core) -> list[ServiceFacts]:
    trusted = core.trusted
    if trusted is None:
        return []
    with core.database.begin() as connection:
        reports = [report for _, report in read_nodes(connection).values() if report is not None]
        asked = {service: deployments_of(connection, service=service) for service in trusted.policies}
    found = []
    for service, policy in trusted.policies.items():
        releases = [one for one in trusted.releases.values() if one.service == service]
        mine = asked[service]
        committed = {(one.epoch, one.counter): one.ended_at for one in mine if one.committed}
        running = {(row.epoch, row.counter) for report in reports for row in report.running if row.service == service}
        running |= {(one.epoch, one.counter) for one in mine if one.state is DeploymentState.OPEN}
        newest = max(releases, key=lambda one: (one.epoch, one.counter), default=None)
        found.append(
            ServiceFacts(
                releases=tuple(
                    ReleaseFacts(
                        epoch=one.epoch,
                        counter=one.counter,
                        committed_at=committed.get((one.epoch, one.counter), 0),
                    )
                    for one in releases
                ),
                retention=newest.retention if newest else 3,
                manifests={
                    (one.epoch, one.counter): image.manifest for one in releases for image in one.images.values()
                },
                bundles={(one.epoch, one.counter): one.config.digest for one in releases if one.config is not None},
                running=frozenset(running),
                pins=frozenset(policy.pins),
            )
        )
    return found


def collect(core: Core, wanted: Wanted, *, now: float, grace: float = GRACE_S) -> Collected:
    """Remove what nobody needs and nobody touched for `grace` seconds. In a worker thread. now: Unix seconds."""
    needed: set[str] = set(wanted.boxes)
    for digest in wanted.manifests:
        needed |= {digest} | contents_of(core, digest)
    count = size = 0
    for digest in core.objects.digests():
        removed = 0 if digest in needed else core.objects.remove_older(digest, than=now - grace)
        count, size = count + bool(removed), size + removed
    for digest, base, path in core.deltas.names():
        if not (core.objects.has(digest) and core.objects.has(base)):
            path.unlink(missing_ok=True)
    blobs, bytes_ = _collect_door(core, wanted.tags, now=now, grace=grace)
    return Collected(objects=count, blobs=blobs, bytes=size + bytes_)


def contents_of(core: Core, digest: str) -> frozenset[str]:
    """Return what an image's manifest names; nothing where the manifest is not here: no node could fetch it either."""
    try:
        if core.objects.size(digest) > MAX_MANIFEST:
            return frozenset()
        manifest = decode_manifest(b"".join(core.objects.read(digest)))
    except (NotFound, BadInput):
        return frozenset()
    return frozenset(entry.sha256 for entry in manifest.entries if entry.size)


def _collect_door(core: Core, tags: tuple[DoorImage, ...], *, now: float, grace: float) -> tuple[int, int]:
    """Forget tags beyond the newest, and blobs that no tag leads to."""
    door = core.door
    kept = {(one.repository, one.tag) for one in tags}
    reached = {
        (one.repository, digest) for one in tags for digest in _reach(core, one.digest.removeprefix("sha256:"), depth=3)
    }
    held: set[str] = set()
    with door.begin() as connection:
        for one in memory.read_tags(connection):
            if (one.repository, one.tag) not in kept and one.at < (now - grace) * 1000:
                memory.drop_tag(connection, repository=one.repository, tag=one.tag)
        for repository, digest, _, at in memory.links(connection):
            if (repository, digest) in reached or at >= (now - grace) * 1000:
                held.add(digest)
            else:
                memory.unlink(connection, repository=repository, digest=digest)
    count = size = 0
    for digest in door.blobs.digests():
        removed = 0 if digest in held else door.blobs.remove_older(digest, than=now - grace)
        count, size = count + bool(removed), size + removed
    return count, size


def _reach(core: Core, digest: str, *, depth: int) -> set[str]:
    """Return a manifest's digest and all it names. It was checked when it came."""
    try:
        plain = json.loads(b"".join(core.door.blobs.read(digest)))
    except (NotFound, ValueError):
        return set()
    own = [plain["config"], *plain.get("layers", ())] if plain.get("config") else []
    found = {digest} | {str(one["digest"]).removeprefix("sha256:") for one in own}
    for one in plain.get("manifests", ()) if depth else ():
        found |= _reach(core, str(one["digest"]).removeprefix("sha256:"), depth=depth - 1)
    return found


async def collect_now(core: Core) -> Collected:
    """Collect, and say so when something went."""
    wanted = find_wanted(core)
    done = await asyncio.to_thread(collect, core, wanted, now=core.now() / 1000)
    if done.objects or done.blobs:
        core.report_event(
            "objects.collected",
            Severity.INFO,
            f"{done.objects} objects and {done.blobs} blobs that nobody needs are gone",
        )
    return done


async def keep_small(core: Core) -> None:
    """Collect every few hours, for ever; what goes wrong is an event."""
    await asyncio.sleep(FIRST_S)
    while True:
        try:
            await collect_now(core)
        except (NebhError, OSError) as error:
            core.report_event("objects.collect-failed", Severity.WARNING, f"cannot collect objects: {error}")
        await asyncio.sleep(EVERY_S)
