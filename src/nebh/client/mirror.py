"""Static mirrors: a web server, a neighbour, an S3-compatible store. What they send is hashed by whoever asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

from nebh.client.http import HttpConnection
from nebh.client.s3 import parse_store
from nebh.client.transport import PublicTlsTransport, TcpTransport, TlsTransport, Transport, split_address
from nebh.model.errors import BadInput, NotFound, Unreachable

TIMEOUT = 20.0
Item = tuple[str, int]
Take = Callable[[Iterator[bytes]], None]


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
