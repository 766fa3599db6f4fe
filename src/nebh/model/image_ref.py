"""How a release names an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageRef:
    """What a release says of an image: manifest digest, sum of file bytes, number of entries (N9), and the length of
    the manifest itself."""

    manifest: str
    bytes: int
    entries: int
    manifest_bytes: int = 0
