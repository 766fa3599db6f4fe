"""What a node keeps: the only roots of garbage collection, and with them all that may go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from nebh.model.image import EntryType, TreeManifest


@dataclass(frozen=True, kw_only=True)
class ReleaseFacts:
    """A release that the node accepted. committed_at: Unix ms, 0 = never."""

    epoch: int
    counter: int
    committed_at: int = 0


def keep_releases(
    releases: Collection[ReleaseFacts],
    *,
    running: frozenset[tuple[int, int]],
    pins: frozenset[int],
    retention: int,
    epoch: int = 0,
) -> frozenset[tuple[int, int]]:
    """Return the (epoch, counter) of every release of one service that stays ready to start.

    They are: what runs or is being prepared (`running`), what is pinned in `epoch` (0 = the newest one known), and the
    last `retention` that were committed here, by time of commit and then by number.
    """
    newest = epoch or max((one.epoch for one in releases), default=0)
    committed = sorted(
        (one for one in releases if one.committed_at),
        key=lambda one: (one.committed_at, one.epoch, one.counter),
        reverse=True,
    )
    kept = {(one.epoch, one.counter) for one in committed[:retention]}
    kept |= {(one.epoch, one.counter) for one in releases if one.epoch == newest and one.counter in pins}
    return frozenset(kept | running)


@dataclass(frozen=True, kw_only=True)
class ServiceFacts:
    """What a controller knows of one service. releases: those it lists, with what was committed through it; retention
    and manifest by (epoch, counter), and the bundle that its files are rendered from; running: what nodes reported, and
    what is being deployed; pins: of the policy."""

    releases: tuple[ReleaseFacts, ...]
    retention: int
    manifests: Mapping[tuple[int, int], str]
    running: frozenset[tuple[int, int]] = frozenset()
    pins: frozenset[int] = frozenset()
    bundles: Mapping[tuple[int, int], str] = field(default_factory=dict)


def keep_manifests(services: Iterable[ServiceFacts]) -> frozenset[str]:
    """Return the manifests and bundles that a controller keeps: by the nodes' own rule, and the last N listed, committed or not."""
    kept: set[str] = set()
    for one in services:
        held = keep_releases(one.releases, running=one.running, pins=one.pins, retention=one.retention)
        newest = sorted(((release.epoch, release.counter) for release in one.releases), reverse=True)
        held |= frozenset(newest[: one.retention])
        kept |= {one.manifests[key] for key in held if key in one.manifests}
        kept |= {one.bundles[key] for key in held if key in one.bundles}
    return frozenset(kept)


def find_unneeded(held: Iterable[str], *, kept: Collection[str]) -> tuple[str, ...]:
    """Return the manifest digests, out of those `held`, that no kept release brings, sorted."""
    return tuple(sorted(set(held) - set(kept)))


def objects_of(manifest: TreeManifest) -> frozenset[tuple[str, int]]:
    """Return the (SHA-256, mode) of every object that a tree links to; empty files are no objects."""
    return frozenset(
        (entry.sha256, entry.mode) for entry in manifest.entries if entry.type is EntryType.FILE and entry.size
    )


def find_unneeded_objects(
    held: Mapping[tuple[str, int], int], *, kept: Iterable[TreeManifest]
) -> tuple[tuple[tuple[str, int], ...], int]:
    """Return (objects that no kept tree links to, sorted; the bytes they take). held: size by (SHA-256, mode)."""
    needed: set[tuple[str, int]] = set()
    for manifest in kept:
        needed |= objects_of(manifest)
    gone = tuple(sorted(set(held) - needed))
    return gone, sum(held[one] for one in gone)
