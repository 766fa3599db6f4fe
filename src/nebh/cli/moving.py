"""Images on their way to the controller: what it lacks, as patches on what it holds, over a few connections at once."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nebh.client.api_client import Client
from nebh.host.throttle import Throttle
from nebh.images.cache import ImageCache
from nebh.images.delta import PATCH_LIMIT, TOGETHER, Base, choose_bases, make_patch
from nebh.images.delta_pack import Outgoing, encode_delta_pack
from nebh.images.manifest import encode_manifest
from nebh.images.objects import read_chunks
from nebh.model.errors import BadInput, Broken, Failed, NotFound, Unreachable
from nebh.model.image import EntryType, TreeManifest
from nebh.model.quantities import parse_size, render_size

if TYPE_CHECKING:
    from nebh.cli.session import Session

JOBS: Final = 3
TRIES: Final = 5
BATCH: Final = 32 << 20
"""Plain bytes of one upload; a larger object travels alone."""
BATCH_OBJECTS: Final = 2000
_CANDIDATES: Final = 4
_WORTH: Final = 0.8
# Below this a mapping costs more than a read.
_MAPPED: Final = 1 << 20


@dataclass(kw_only=True)
class Moved:
    """What an upload took. objects, bytes: that the controller lacked, plain; patched: how many of them went as a
    patch; sent: bytes of request bodies, all tries together."""

    objects: int = 0
    bytes: int = 0
    patched: int = 0
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, *, sent: int = 0, patched: int = 0) -> None:
        """Add to the counts, from any thread."""
        with self.lock:
            self.sent, self.patched = self.sent + sent, self.patched + patched


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """An image to send: sizes by digest, its manifest's bytes under its own digest, and the bases of its contents."""

    digest: str
    data: bytes
    sizes: dict[str, int]
    bases: dict[str, Base]


class Sender:
    """Sends images from a cache to one controller. make_client: each thread has a connection of its own. JOBS of them
    take at most JOBS * (images.delta.MEMORY + images.delta.PATCH_LIMIT) bytes, whatever the image's size."""

    def __init__(
        self,
        cache: ImageCache,
        make_client: Callable[[], Client],
        *,
        throttle: Throttle | None = None,
        pause: float = 1.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._cache, self._make_client, self._throttle = cache, make_client, throttle or Throttle()
        self._pause, self._say = pause, say

    def send(self, manifest: TreeManifest) -> Moved:
        """Have the controller hold every object of an image and its manifest. What came whole before a connection broke
        is not sent again. Raises Unreachable after TRIES, Failed when the controller keeps lacking something."""
        data = encode_manifest(manifest)
        sizes = {one.sha256: one.size for one in manifest.entries if one.type is EntryType.FILE and one.size}
        digest = self._cache.add_manifest(data)
        sizes[digest] = len(data)
        moved = Moved()
        with contextlib.closing(self._make_client()) as client:
            candidates = self._candidates(digest)
            missing = client.missing_objects((digest, *candidates))
            like = self._most_alike(manifest, [one for one in candidates if one not in missing])
            parcel = Parcel(digest=digest, data=data, sizes=sizes, bases=self._bases(manifest, digest, len(data), like))
            # The manifest goes first: the controller itself then says what it lacks of it, however large the image is.
            self._send_until(parcel, lambda: client.missing_objects((digest,)), moved)
            self._send_until(parcel, lambda: client.missing_of_image(digest), moved)
        return moved

    def _send_until(self, parcel: Parcel, look: Callable[[], tuple[str, ...]], moved: Moved) -> None:
        """Send what `look` says is missing until nothing is. What a patch did not bring goes whole."""
        seen: set[str] = set()
        arrived: set[str] = set()
        broken = 0
        while wanted := look():
            if arrived & set(wanted):
                raise Failed(f"cannot upload the image: the controller lacks {len(wanted)} objects that it was sent")
            fresh = [one for one in wanted if one not in seen]
            moved.objects += len(fresh)
            moved.bytes += sum(parcel.sizes[one] for one in fresh)
            seen.update(fresh)
            problem = self._send_all(parcel, wanted, moved)
            broken += problem is not None
            if problem is None:
                arrived |= {one for one in wanted if one not in parcel.bases}
                parcel = Parcel(digest=parcel.digest, data=parcel.data, sizes=parcel.sizes, bases={})
            elif broken == TRIES:
                raise problem
            else:
                self._say("the connection broke; going on with what is missing still")
                time.sleep(self._pause * 2.0**broken)

    def _candidates(self, digest: str) -> list[str]:
        """Return the manifests used last on this computer: what they hold, the controller may hold too."""
        found = [path for path in (self._cache.root / "manifests").glob("*.json") if path.stem != digest]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.stem for path in found[: 2 * _CANDIDATES]]

    def _most_alike(self, manifest: TreeManifest, candidates: Sequence[str]) -> tuple[str, TreeManifest] | None:
        """Return the image, of those that this computer and the controller hold, with most contents of this one."""
        contents = {entry.sha256 for entry in manifest.entries}
        best: tuple[int, str, TreeManifest] | None = None
        for one in candidates[:_CANDIDATES]:
            with contextlib.suppress(NotFound, Broken, BadInput):
                held = self._cache.manifest(one)
                alike = len(contents & {entry.sha256 for entry in held.entries})
                if best is None or alike > best[0]:
                    best = (alike, one, held)
        return best[1:] if best is not None else None

    def _bases(
        self, manifest: TreeManifest, digest: str, length: int, like: tuple[str, TreeManifest] | None
    ) -> dict[str, Base]:
        """Return what each new content may be said by: contents of the image most like this one."""
        if like is None:
            return {}
        old = {entry.sha256 for entry in like[1].entries}
        wanted = frozenset(entry.sha256 for entry in manifest.entries if entry.sha256 not in old)
        bases = choose_bases(like[1], manifest, wanted=wanted)
        bases = {one: base for one, base in bases.items() if self._cache.objects.has(base.digest)}
        size = len(self._cache.manifest_bytes(like[0]))
        if size + length <= TOGETHER:
            bases[digest] = Base(digest=like[0], size=size)
        return bases

    def _send_all(self, parcel: Parcel, wanted: Sequence[str], moved: Moved) -> Unreachable | None:
        """Send batches over JOBS connections; return why some did not arrive."""
        groups = list(batches(parcel.sizes, wanted))
        with ThreadPoolExecutor(max_workers=min(JOBS, len(groups)), thread_name_prefix="upload") as pool:
            return next(
                (one for one in pool.map(lambda batch: self._send_batch(parcel, batch, moved), groups) if one), None
            )

    def _send_batch(self, parcel: Parcel, batch: tuple[str, ...], moved: Moved) -> Unreachable | None:
        def make() -> Iterator[bytes]:
            pack = encode_delta_pack(self._outgoing(parcel, batch, moved), lambda one: self._read(parcel, one))
            for chunk in self._throttle.passing(pack):
                moved.count(sent=len(chunk))
                yield chunk

        try:
            with contextlib.closing(self._make_client()) as client:
                client.upload_deltas(make)
        except Unreachable as error:
            return error
        return None

    def _outgoing(self, parcel: Parcel, batch: Iterable[str], moved: Moved) -> Iterator[Outgoing]:
        for one in batch:
            size, base = parcel.sizes[one], parcel.bases.get(one)
            patch = self._patch(parcel, one, base) if base is not None else b""
            if base is not None and patch and len(patch) < min(size * _WORTH, PATCH_LIMIT):
                moved.count(patched=1)
                yield Outgoing(one, size, base=base.digest, patch=patch)
            else:
                yield Outgoing(one, size)

    def _patch(self, parcel: Parcel, digest: str, base: Base) -> bytes:
        if digest == parcel.digest:
            return make_patch(self._cache.manifest_bytes(base.digest), parcel.data)
        with contextlib.ExitStack() as stack:
            old = _open(stack, self._cache.objects.open(base.digest))
            return make_patch(old, _open(stack, self._cache.objects.open(digest)))

    def _read(self, parcel: Parcel, digest: str) -> Iterable[bytes]:
        return (parcel.data,) if digest == parcel.digest else read_chunks(self._cache.objects.open(digest))


def batches(sizes: Mapping[str, int], wanted: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield objects (their `sizes` by digest) in groups, one for each upload."""
    held: list[str] = []
    size = 0
    for one in wanted:
        if held and (size + sizes[one] > BATCH or len(held) == BATCH_OBJECTS):
            yield tuple(held)
            held, size = [], 0
        held.append(one)
        size += sizes[one]
    if held:
        yield tuple(held)


def _open(stack: contextlib.ExitStack, descriptor: int) -> bytes | mmap.mmap:
    """Return a file's content, mapped where it is large."""
    try:
        size = os.fstat(descriptor).st_size
        if size <= _MAPPED:
            return os.read(descriptor, _MAPPED)
        return stack.enter_context(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def parse_rate(text: str) -> int:
    """Return bytes a second of `500K`, `2M`; 0 = no limit. Raises BadInput."""
    try:
        return parse_size(text) if text not in ("", "0") else 0
    except BadInput as error:
        raise BadInput(f"cannot use the rate {text!r}", hint="write bytes a second, such as 500K or 2M") from error


def send_image(session: Session, manifest: TreeManifest, cache: ImageCache, *, rate: str = "") -> Moved:
    """Have the session's controller hold an image; say what it took. Raises as `Sender.send`."""
    sender = Sender(cache, session.new_client, throttle=Throttle(parse_rate(rate)), say=session.out.note)
    session.out.progress("sending what the controller lacks")
    moved = sender.send(manifest)
    if moved.objects:
        session.out.note(
            f"sent {moved.objects} objects, {render_size(moved.bytes)}, as {render_size(moved.sent)} "
            f"({moved.patched} of them as a change of what is there)"
        )
    return moved
