"""Where bytes come from: the controller and plain static mirrors. Whatever they send is checked by the executor."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

from nebh.agent.delivery import Delivery, Held, Item, Take
from nebh.agent.transport_key import TransportIdentity
from nebh.client.api_client import Client
from nebh.client.http import HttpConnection
from nebh.client.s3 import parse_store
from nebh.client.transport import PublicTlsTransport, TcpTransport, TlsTransport, Transport, split_address
from nebh.host.throttle import Throttle
from nebh.images.delta_pack import Packed, decode_delta_pack
from nebh.images.pack import PackLimits, PackStream, decode_pack
from nebh.model.errors import BadInput, NotFound, Unreachable

CONTROLLER = "controller"
TIMEOUT = 20.0
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


@dataclass(frozen=True)
class MirrorSource:
    """A static HTTP server: BASE/metadata/..., BASE/targets/..., BASE/objects/ab/<sha256>. No redirects are followed."""

    transport: Transport
    host: str
    base: str
    sign: Callable[[str, str, str], dict[str, str]] | None = None
    """(method, host, target) -> headers, for a store that wants requests signed."""

    def metadata(self, name: str, limit: int) -> bytes | None:
        """Return a file, None when there is none; at most limit + 1 bytes."""
        try:
            return b"".join(self._get(name, limit))
        except NotFound:
            return None

    def objects(self, items: tuple[Item, ...], take: Take) -> None:
        """Hand the chunks of each item to `take`, in order. Raises Unreachable, NotFound."""
        for digest, size in items:
            take(self._get(f"objects/{digest[:2]}/{digest}", size))

    def rest(self, item: Item, offset: int) -> Iterator[bytes]:
        """Yield an object's bytes from `offset` on, one more than there are at most. Raises Unreachable, NotFound."""
        return self._get(f"objects/{item[0][:2]}/{item[0]}", item[1], offset=offset)

    def _get(self, name: str, limit: int, *, offset: int = 0) -> Iterator[bytes]:
        connection = HttpConnection(self.transport.connect(), host=self.host)
        try:
            target, headers = f"{self.base}/{quote(name)}", {"Range": f"bytes={offset}-"} if offset else {}
            if self.sign is not None:
                headers |= self.sign("GET", self.host, target)
            answer = connection.request("GET", target, headers=headers, timeout=TIMEOUT)
            if answer.status == 404:
                raise NotFound(f"{self.host} has no {name}")
            if answer.status != (206 if offset else 200):
                raise Unreachable(f"cannot fetch {name} from {self.host}: status {answer.status}")
            left = limit - offset + 1
            for chunk in answer.chunks:
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return
        finally:
            connection.close()


def parse_mirror(url: str, *, pins: tuple[str, ...]) -> MirrorSource:
    """Return the source that `http://host[:port]/base`, the same with https, or `s3://host/bucket/base` names. https is
    held to `pins` where there are any, else to the system's authorities. Raises BadInput."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    base = f"{slash}{path}".rstrip("/")
    if scheme == "http":
        host, port = split_address(place, default=80)
        return MirrorSource(TcpTransport(host=host, port=port), place, base)
    if scheme == "https" and pins:
        host, port = split_address(place, default=443)
        return MirrorSource(TlsTransport(host=host, port=port, pins=pins), place, base)
    if scheme == "https":
        host, port = split_address(place, default=443)
        return MirrorSource(PublicTlsTransport(host=host, port=port), place, base)
    if scheme in ("s3", "s3+http"):
        store = parse_store(url, find=lambda name: os.environ.get(name, ""))
        made = parse_mirror(store.url, pins=pins)
        return replace(made, sign=store.sign if store.key else None)
    raise BadInput(
        f"cannot use the mirror {url!r}", hint="write http://host/path, https://host/path or s3://host/bucket"
    )


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
