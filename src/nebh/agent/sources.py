"""Where bytes come from: the controller and plain static mirrors. Whatever they send is checked by the executor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from nebh.agent.transport_key import TransportIdentity
from nebh.client.api_client import Client
from nebh.client.http import HttpConnection
from nebh.client.transport import TcpTransport, TlsTransport, Transport, split_address
from nebh.images.pack import PackLimits, decode_pack
from nebh.model.errors import BadInput, NotFound, Refused, Unreachable

CONTROLLER = "controller"
TIMEOUT = 20.0
Item = tuple[str, int]
Take = Callable[[Iterator[bytes]], None]


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
        limits = PackLimits(objects=len(items), object=max(size for _, size in items), bytes=sum(s for _, s in items))
        with self.client() as client:
            wanted = iter(items)
            for packed in decode_pack(client.download_objects(tuple(digest for digest, _ in items)), limits=limits):
                if next(wanted, None) != (packed.digest, packed.size):
                    raise BadInput(f"cannot take object {packed.digest[:12]}: another one was asked for")
                take(packed.chunks)


@dataclass(frozen=True)
class MirrorSource:
    """A static HTTP server: BASE/metadata/..., BASE/targets/..., BASE/objects/ab/<sha256>. No redirects are followed."""

    transport: Transport
    host: str
    base: str

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

    def _get(self, name: str, limit: int) -> Iterator[bytes]:
        connection = HttpConnection(self.transport.connect(), host=self.host)
        try:
            answer = connection.request("GET", f"{self.base}/{quote(name)}", headers={}, timeout=TIMEOUT)
            if answer.status == 404:
                raise NotFound(f"{self.host} has no {name}")
            if answer.status != 200:
                raise Unreachable(f"cannot fetch {name} from {self.host}: status {answer.status}")
            left = limit + 1
            for chunk in answer.chunks:
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return
        finally:
            connection.close()


def parse_mirror(url: str, *, pins: tuple[str, ...]) -> MirrorSource:
    """Return the source that `http://host[:port]/base` (or https with a pin) names. Raises BadInput."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    base = f"{slash}{path}".rstrip("/")
    if scheme == "http":
        host, port = split_address(place, default=80)
        return MirrorSource(TcpTransport(host=host, port=port), place, base)
    if scheme == "https" and pins:
        host, port = split_address(place, default=443)
        return MirrorSource(TlsTransport(host=host, port=port, pins=pins), place, base)
    raise BadInput(f"cannot use the mirror {url!r}", hint="write http://host/path, or https:// with --pin")


class Sources:
    """The controller and the mirrors by the names the executor uses: `controller`, `mirror-0`, `mirror-1`..."""

    def __init__(self, controller: ControllerSource, mirrors: tuple[MirrorSource, ...]) -> None:
        self.controller = controller
        self._mirrors = mirrors

    def metadata(self, source: str, name: str, limit: int) -> bytes | None:
        """Return a file of one source. Raises NotFound for an unknown source, Unreachable."""
        if not name.startswith(("metadata/", "targets/")) or ".." in name:
            raise BadInput(f"cannot fetch {name[:80]!r}: names begin with metadata/ or targets/")
        if source == CONTROLLER:
            return self.controller.metadata(name, limit)
        known = {f"mirror-{number}": mirror for number, mirror in enumerate(self._mirrors)}
        if source not in known:
            raise Unreachable(f"cannot fetch from {source[:80]!r}: this agent knows no such source")
        return known[source].metadata(name, limit)

    def objects(self, items: tuple[Item, ...], take: Callable[[Item, Iterator[bytes]], None]) -> None:
        """Hand every item's chunks to `take`, in order; a source that fails is replaced by the next one, unless it
        failed inside an object. Raises Unreachable, NotFound, BadInput."""
        done = 0
        begun = False

        def note(chunks: Iterator[bytes]) -> None:
            nonlocal done, begun
            begun = True
            take(items[done], chunks)
            done, begun = done + 1, False

        problem: Unreachable | NotFound | BadInput | Refused = NotFound("cannot fetch objects: there is no source")
        sources: tuple[ControllerSource | MirrorSource, ...] = (self.controller, *self._mirrors)
        for source in sources:
            if done == len(items):
                return
            try:
                source.objects(items[done:], note)
            except (Unreachable, NotFound, BadInput, Refused) as error:
                problem = error
                if begun:
                    raise
        if done < len(items):
            raise problem
