"""Patches kept beside the objects they make: FOLDER/ab/<digest>.<base digest>. Whoever applies one hashes the result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nebh.host.files import read_bounded, write_atomic
from nebh.images.delta import PATCH_LIMIT
from nebh.model.errors import BadInput
from nebh.model.names import is_digest

_NAME: Final = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{64})\Z")
KEPT: Final = 3
"""Patches kept for one object, each on another base."""


class DeltaFolder:
    """Patches by what they make. Several threads may use one folder at once."""

    def __init__(self, path: Path) -> None:
        """Use `path`, made when it does not exist."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def put(self, digest: str, base: str, patch: bytes) -> None:
        """Keep a patch. Raises BadInput for what is no digest. Not durable: a patch can be made again."""
        if not is_digest(digest) or not is_digest(base):
            raise BadInput("cannot keep a patch: it does not name what it makes, and of what")
        folder = self.path / digest[:2]
        folder.mkdir(exist_ok=True)
        if len(self.bases(digest)) < KEPT:
            write_atomic(folder / f"{digest}.{base}", patch, mode=0o444, durable=False)

    def bases(self, digest: str) -> tuple[str, ...]:
        """Return what the object may be made of."""
        if not is_digest(digest):
            return ()
        found = (_NAME.match(path.name) for path in (self.path / digest[:2]).glob(f"{digest}.*"))
        return tuple(sorted(one[2] for one in found if one is not None))

    def read(self, digest: str, base: str) -> bytes:
        """Return a patch, b"" when there is none."""
        try:
            return read_bounded(self.path / digest[:2] / f"{digest}.{base}", limit=PATCH_LIMIT)
        except OSError:
            return b""

    def names(self) -> Iterator[tuple[str, str, Path]]:
        """Yield (digest, base, path) of every patch."""
        for path in sorted(self.path.glob("*/*")):
            found = _NAME.match(path.name)
            if found is not None:
                yield found[1], found[2], path
