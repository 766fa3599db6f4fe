"""Objects on their way to the executor: patched from what the node holds, else whole from neighbours, mirrors and the
controller, each going on where the one before broke off.

Memory: SMALL bytes for an object that is checked before it is handed on, PATCHES bytes of patches, and what applying
one takes (`images.delta.MEMORY`); larger objects are streamed, whatever their size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from nebh.host.throttle import Throttle
from nebh.images.delta import apply_patch
from nebh.images.delta_pack import Packed, check_hash
from nebh.model.errors import BadInput, NebhError, NotFound, Refused, Unreachable
from nebh.model.names import is_digest

SMALL: Final = 256 << 10
"""Little enough that the executor, which waits for the first piece, does not lose patience on a slow line."""
PATCHES: Final = 4 << 20
PATIENCE: Final = 10.0
"""Seconds for fetching patches: what did not come by then travels whole."""
TRIES: Final = 3
"""How often each source is asked for the rest of one large object."""
# One patch at a time on a node, whatever is asked for at once.
_APPLYING: Final = threading.Lock()
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Item = tuple[str, int]
Take = Callable[[Iterator[bytes]], None]
Failing = (Unreachable, NotFound, BadInput, Refused)


class Source(Protocol):
    """Where whole objects come from."""

    def objects(self, items: tuple[Item, ...], take: Take) -> None:
        """Hand the chunks of each item to `take`, in order."""
        ...

    def rest(self, item: Item, offset: int) -> Iterator[bytes]:
        """Yield an object's bytes from `offset` on."""
        ...


class PatchSource(Protocol):
    """Where patches come from."""

    def patches(self, digests: tuple[str, ...]) -> Iterator[Packed]:
        """Yield the patches that make these objects."""
        ...


class Held:
    """What this node's store holds, to patch and to give to neighbours: the folder that the executor writes."""

    def __init__(self, store: Path) -> None:
        """store: the folder with `objects/` and `manifests/`."""
        self._store = store

    def open(self, digest: str) -> int | None:
        """Return a descriptor of an object or manifest, which the caller closes; None = it is not here."""
        if not is_digest(digest):
            return None
        held = sorted((self._store / "objects" / digest[:2]).glob(f"{digest}.[0-7][0-7][0-7]"))
        for path in (*held, self._store / "manifests" / f"{digest}.json"):
            with contextlib.suppress(OSError):  # a file that only root may read is no base
                return os.open(path, _READ)
        return None


class Delivery:
    """One request of the executor: `take` is called once for each item, in their order."""

    def __init__(
        self,
        items: tuple[Item, ...],
        take: Callable[[Item, Iterator[bytes]], None],
        *,
        held: Held | None,
        throttle: Throttle,
        distrust: Callable[[Source], None] = lambda _: None,
    ) -> None:
        """distrust: hears of a source that failed or lied."""
        self._items, self._take, self._held, self._throttle = items, take, held, throttle
        self._distrust = distrust
        self._done, self._begun = 0, False
        self._patches: dict[str, Packed] = {}

    def run(self, patches: PatchSource, sources: Sequence[Source]) -> None:
        """Hand everything on. Raises Unreachable, NotFound, BadInput: what the last source said."""
        if self._held is not None:
            with contextlib.suppress(*Failing):
                self._fetch_patches(patches)
        problem: NebhError = NotFound("cannot fetch objects: there is no source")
        for source in sources:
            try:
                self._from(source, sources)
            except Failing as error:
                if self._begun:
                    raise
                problem = error
                self._distrust(source)
            if self._done == len(self._items):
                return
        raise problem

    # -- patches

    def _fetch_patches(self, source: PatchSource) -> None:
        """Keep the patches whose base is here."""
        wanted = dict(self._items)
        left, end = PATCHES, time.monotonic() + PATIENCE
        for one in source.patches(tuple(wanted)):
            if not one.base or wanted.get(one.digest) != one.size or one.digest in self._patches:
                continue
            base = self._held.open(one.base) if self._held is not None else None
            if base is None:
                continue
            os.close(base)
            left -= len(one.patch)
            if left < 0 or time.monotonic() > end:
                return
            self._throttle.wait_for(len(one.patch))
            self._patches[one.digest] = one

    def _pass_patched(self) -> None:
        """Hand on the items from here on that a patch makes; a patch that does not fit is forgotten."""
        while self._done < len(self._items) and self._items[self._done][0] in self._patches:
            item = self._items[self._done]
            patch = self._patches.pop(item[0])
            base = self._held.open(patch.base) if self._held is not None else None
            if base is None:
                continue
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, base)
                stack.enter_context(_APPLYING)
                with contextlib.suppress(BadInput):
                    if check_hash(_apply(base, patch), digest=patch.digest):
                        self._hand_on(item, _apply(base, patch))

    # -- whole objects

    def _from(self, source: Source, sources: Sequence[Source]) -> None:
        """Hand on what this source has, until it fails."""
        while True:
            self._pass_patched()
            if self._done == len(self._items):
                return
            if self._items[self._done][1] > SMALL:
                self._pass_large(sources)
                continue
            run = self._small_run()
            source.objects(run, self._take_small)

    def _small_run(self) -> tuple[Item, ...]:
        """Return the next items that are to come whole, up to one that is large."""
        found: list[Item] = []
        for item in self._items[self._done :]:
            if item[0] in self._patches:
                continue
            if item[1] > SMALL:
                break
            found.append(item)
        return tuple(found)

    def _take_small(self, chunks: Iterator[bytes]) -> None:
        """Check an object before anything of it is handed on, so that another source can still replace this one."""
        self._pass_patched()
        digest, size = self._items[self._done]
        data = bytearray()
        for chunk in self._throttle.passing(chunks):
            data += chunk
            if len(data) > size:
                break
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise BadInput(f"cannot take object {digest[:12]}: other bytes arrived")
        self._hand_on((digest, size), iter((bytes(data),) if data else ()))

    def _pass_large(self, sources: Sequence[Source]) -> None:
        """Stream one object; where a source breaks off, the next one goes on."""
        item = self._items[self._done]
        self._hand_on(item, self._throttle.passing(self._streamed(item, sources)))

    def _hand_on(self, item: Item, chunks: Iterator[bytes]) -> None:
        self._begun = True
        self._take(item, chunks)
        self._done, self._begun = self._done + 1, False

    def _streamed(self, item: Item, sources: Sequence[Source]) -> Iterator[bytes]:
        digest, size = item
        hasher, offset = hashlib.sha256(), 0
        used: list[Source] = []
        problem: NebhError = NotFound(f"cannot fetch object {digest[:12]}: there is no source")
        for source in (one for one in sources for _ in range(TRIES)):
            try:
                for chunk in source.rest(item, offset):
                    used = used if source in used else [*used, source]
                    offset += len(chunk)
                    hasher.update(chunk)
                    if offset > size or (offset == size and hasher.hexdigest() != digest):
                        raise self._lied(digest, used)
                    yield chunk
            except Failing as error:
                problem = error
            if offset >= size:
                break
        if offset != size or hasher.hexdigest() != digest:
            raise problem

    def _lied(self, digest: str, used: Sequence[Source]) -> NebhError:
        """Too late for another source: most of the object was handed on. The next try goes without these."""
        for source in used:
            self._distrust(source)
        return BadInput(f"cannot take object {digest[:12]}: other bytes arrived")


def _apply(base: int, patch: Packed) -> Iterator[bytes]:
    return apply_patch(lambda offset, length: os.pread(base, length, offset), patch.patch, size=patch.size)
