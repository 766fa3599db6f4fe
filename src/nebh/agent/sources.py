"""Where bytes come from: the controller and plain static mirrors. Whatever they send is checked by the executor."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from nebh.agent.delivery import Delivery, Held, Item, Take
from nebh.agent.transport_key import TransportIdentity
from nebh.client.api_client import Client
from nebh.client.mirror import MirrorSource, parse_mirror
from nebh.client.transport import Transport
from nebh.host.throttle import Throttle
from nebh.images.delta_pack import Packed, decode_delta_pack
from nebh.images.pack import PackLimits, PackStream, decode_pack
from nebh.model.errors import BadInput, Unreachable

__all__ = ["ControllerSource", "MirrorSource", "Sources", "parse_mirror"]
CONTROLLER = "controller"
_MOST_MIRRORS = 16
LEFT_OUT = 300.0
"""Seconds that a mirror or neighbour which failed is not asked for objects."""


class ControllerSource:
    """The controller's API. One client per thread at a time, kept for the next."""

    def __init__(self, transport: Transport, identity: TransportIdentity) -> None:
        self._transport, self._identity = transport, identity
        self._lock = threading.Lock()
        self._idle: list[Client] = []

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Lend a client that is logged in as this node."""
        with self._lock:
            found = self._idle.pop() if self._idle else None
        found = found or Client(self._transport, login=self._identity.login())
        try:
            yield found
        except BaseException:
            found.close()
            raise
        with self._lock:
            if len(self._idle) < 2:
                self._idle.append(found)
                return
        found.close()

    def drop(self) -> None:
        """Forget the clients: they log in anew."""
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def metadata(self, name: str, limit: int) -> bytes | None:
        """Return a file, None when there is none; at most limit + 1 bytes. Needs no login."""
        client = Client(self._transport)
        try:
            return client.fetch(name, limit)
        finally:
            client.close()

    def objects(self, items: tuple[Item, ...], take: Take) -> None:
        """Hand the chunks of each item to `take`, in order. Raises Unreachable, NotFound, BadInput."""
        if not items:
            return
        limits = PackLimits(objects=len(items), object=max(size for _, size in items), bytes=sum(s for _, s in items))
        with self.client() as client:
            wanted = iter(items)
            for packed in decode_pack(client.download_objects(tuple(digest for digest, _ in items)), limits=limits):
                if next(wanted, None) != (packed.digest, packed.size):
                    raise BadInput(f"cannot take object {packed.digest[:12]}: another one was asked for")
                take(packed.chunks)

    def patches(self, digests: tuple[str, ...]) -> Iterator[Packed]:
        """Yield the patches that make these objects. Raises as the client does, BadInput."""
        with self.client() as client:
            yield from decode_delta_pack(client.download_patches(digests))

    def rest(self, item: Item, offset: int) -> Iterator[bytes]:
        """Yield an object's bytes from `offset` on. Raises Unreachable, NotFound, BadInput."""
        with self.client() as client:
            yield from PackStream(client.download_rest(item[0], offset=offset)).rest(item[1] - offset)


class Sources:
    """The controller and the mirrors by the names the executor uses: `controller`, `mirror-0`, `mirror-1`..."""

    def __init__(
        self,
        controller: ControllerSource,
        mirrors: tuple[MirrorSource, ...],
        *,
        neighbours: tuple[MirrorSource, ...] = (),
        held: Held | None = None,
        throttle: Throttle | None = None,
        pins: tuple[str, ...] = (),
    ) -> None:
        """neighbours: other nodes, asked for objects first; held: what this node has, to patch; throttle: for objects
        on their way here."""
        self.controller = controller
        self._mirrors, self._neighbours = mirrors, neighbours
        self._held, self._throttle = held, throttle or Throttle()
        self._pins, self._by_url = pins, dict[str, MirrorSource | None]()
        self._left_out: dict[MirrorSource, float] = {}

    def metadata(self, source: str, name: str, limit: int, *, signed: tuple[str, ...] = ()) -> bytes | None:
        """Return a file of one source. signed: the mirrors of the signed settings, for `mirror-<number>`. Raises NotFound for an unknown source, Unreachable."""
        if not name.startswith(("metadata/", "targets/")) or ".." in name:
            raise BadInput(f"cannot fetch {name[:80]!r}: names begin with metadata/ or targets/")
        if source == CONTROLLER:
            return self.controller.metadata(name, limit)
        known = {f"mirror-{number}": mirror for number, mirror in enumerate(self._all_mirrors(signed))}
        mirror = known.get(source)
        if mirror is None:
            raise Unreachable(f"cannot fetch from {source[:80]!r}: this agent knows no such source")
        return mirror.metadata(name, limit)

    def objects(
        self, items: tuple[Item, ...], take: Callable[[Item, Iterator[bytes]], None], *, signed: tuple[str, ...] = ()
    ) -> None:
        """Hand every item's chunks to `take`, in order, from wherever they can be had (`agent.delivery`). Raises
        Unreachable, NotFound, BadInput."""
        now = time.monotonic()
        mirrors = [one for one in self._all_mirrors(signed) if one is not None]
        others = [one for one in (*self._neighbours, *mirrors) if self._left_out.get(one, 0.0) <= now]
        delivery = Delivery(items, take, held=self._held, throttle=self._throttle, distrust=self._distrust)
        delivery.run(self.controller, (*others, self.controller))

    def _all_mirrors(self, signed: tuple[str, ...]) -> tuple[MirrorSource | None, ...]:
        """Return the signed mirrors, in their order, then those of the command line; None: one that cannot be used."""
        return (*(self._parsed(url) for url in signed[:_MOST_MIRRORS]), *self._mirrors)

    def _parsed(self, url: str) -> MirrorSource | None:
        if url not in self._by_url:
            try:
                self._by_url[url] = parse_mirror(url, pins=self._pins)
            except BadInput:
                self._by_url[url] = None
        return self._by_url[url]

    def _distrust(self, source: object) -> None:
        if isinstance(source, MirrorSource):
            self._left_out[source] = time.monotonic() + LEFT_OUT
