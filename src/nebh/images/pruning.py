"""What an image cache may lose again: sources that no build has asked for in a while, contents that nothing names."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Final

from nebh.images.cache import ImageCache
from nebh.images.declared.layer import LayerCache
from nebh.images.objects import ObjectFolder
from nebh.images.records import Records

KEPT_S: Final = 30 * 86_400
# A build that goes on may have stored contents that no layer or image names yet.
_FRESH_S: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What went: kept layers, fetched sources, contents; bytes: of sources and contents together."""

    layers: int = 0
    downloads: int = 0
    contents: int = 0
    bytes: int = 0


def prune_sources(cache: ImageCache, downloads: ObjectFolder, *, kept_s: float = KEPT_S) -> Pruned:
    """Remove layers and fetched sources that no build used for `kept_s` seconds, and then the contents that neither an
    image nor a layer names. Images stay."""
    than = time.time() - kept_s
    layers = LayerCache(cache).remove_older(than=than)
    sizes = [size for one in list(downloads.digests()) if (size := downloads.remove_older(one, than=than))]
    contents = _remove_unnamed(cache, than=time.time() - min(_FRESH_S, kept_s)) if layers else []
    return Pruned(
        layers=layers, downloads=len(sizes), contents=len(contents), bytes=sum(size for size in (*sizes, *contents))
    )


def remove_image(cache: ImageCache, digest: str) -> Pruned:
    """Remove an image, its record, and the contents that no other image and no kept layer names. Raises NotFound."""
    records = Records(cache)
    gone = {entry.sha256 for entry in cache.manifest(digest).entries if entry.size}
    cache.remove_manifest(digest)
    records.remove(digest)
    gone -= _named(cache)
    freed = sum(cache.objects.size(one) for one in gone if cache.objects.has(one))
    for one in gone:
        cache.objects.remove(one)
    return Pruned(contents=len(gone), bytes=freed)


def _named(cache: ImageCache) -> set[str]:
    named = set(LayerCache(cache).used())
    for other in Records(cache).digests():
        named |= {entry.sha256 for entry in cache.manifest(other).entries}
    return named


def _remove_unnamed(cache: ImageCache, *, than: float) -> list[int]:
    named = _named(cache)
    sizes = []
    for one in list(cache.objects.digests()):
        if one not in named:
            with contextlib.suppress(OSError):
                sizes.append(cache.objects.remove_older(one, than=than))
    return [size for size in sizes if size]
