"""What a node keeps: the only roots of garbage collection, and with them all that may go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

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
