"""The agent's socket, for the executor: bytes by name and size, probes. Closed schemas, bounded frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import msgspec

from nebh.agent import acme, probe
from nebh.agent.delivery import Item
from nebh.client.frame_channel import FrameChannel, Head
from nebh.host.channels import Peer
from nebh.model.errors import BadInput, NotFound
from nebh.model.names import is_digest
from nebh.wire.frames import BODY_LIMIT

T = TypeVar("T")
ITEMS = 2000
METADATA_LIMIT = 8 << 20


class _Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    op: str


class MetadataRequest(_Request, frozen=True):
    """A metadata or target file of one source, at most `max` bytes. mirrors: as the signed settings name them."""

    source: str
    name: str
    max: int
    mirrors: list[str] = []


class ObjectsRequest(_Request, frozen=True):
    """Objects by (digest, size). mirrors: as the signed settings name them."""

    items: list[tuple[str, int]]
    mirrors: list[str] = []


class ProbeRequest(_Request, frozen=True):
    """A look at an instance."""

    kind: str
    address: str
    port: int
    path: str
    host: str
    statuses: list[int]
    contains: str
    timeout: int


class AcmeRequest(_Request, frozen=True):
    """A certificate for a host. directory: URL; ca: PEM of the authorities that count there, "" = the system's."""

    directory: str
    host: str
    ca: str


class Supply(Protocol):
    """Where bytes come from; see `nebh.agent.sources.Sources`."""

    def metadata(self, source: str, name: str, limit: int, *, signed: tuple[str, ...] = ()) -> bytes | None:
        """Return a file of one source, None when it has none. Raises NotFound, Unreachable."""

    def objects(
        self, items: tuple[Item, ...], take: Callable[[Item, Iterator[bytes]], None], *, signed: tuple[str, ...] = ()
    ) -> None:
        """Hand the chunks of each item to `take`, in order. Raises Unreachable, NotFound, BadInput."""


class Door:
    """Answers the executor; every connection has a thread of its own."""

    def __init__(self, sources: Supply) -> None:
        self._sources = sources

    def handle(self, channel: FrameChannel, head: Head, _body: bytes, _peer: Peer) -> None:
        """Answer one request."""
        match head.get("op", ""):
            case "metadata":
                self._metadata(channel, _read(head, MetadataRequest))
            case "objects":
                self._objects(channel, _read(head, ObjectsRequest))
            case "probe":
                self._probe(channel, _read(head, ProbeRequest))
            case "acme":
                self._acme(channel, _read(head, AcmeRequest))
            case other:
                raise BadInput(f"cannot do {str(other)[:40]!r}: there is no such operation")

    def _metadata(self, channel: FrameChannel, request: MetadataRequest) -> None:
        limit = min(max(request.max, 0), METADATA_LIMIT)
        data = self._sources.metadata(request.source, request.name, limit, signed=tuple(request.mirrors))
        if data is None:
            raise NotFound(f"{request.source} has no {request.name}")
        if len(data) > limit:
            raise BadInput(f"cannot take {request.name} from {request.source}: it is longer than {limit} bytes")
        channel.send({"ok": True, "size": len(data)}, data[:BODY_LIMIT])
        for start in range(BODY_LIMIT, len(data), BODY_LIMIT):
            channel.send({"ok": True}, data[start : start + BODY_LIMIT])

    def _objects(self, channel: FrameChannel, request: ObjectsRequest) -> None:
        items = tuple(request.items)
        if not items or len(items) > ITEMS or not all(is_digest(digest) and size >= 0 for digest, size in items):
            raise BadInput(f"cannot fetch these objects: 1 to {ITEMS} of [SHA-256, size] are allowed")

        def take(item: Item, chunks: Iterator[bytes]) -> None:
            digest = item[0]
            for chunk in chunks:
                for start in range(0, len(chunk), BODY_LIMIT):
                    channel.send({"digest": digest, "last": False}, chunk[start : start + BODY_LIMIT])
            channel.send({"digest": digest, "last": True})

        self._sources.objects(items, take, signed=tuple(request.mirrors))

    def _probe(self, channel: FrameChannel, request: ProbeRequest) -> None:
        if request.kind not in {"http", "tcp"} or not 0 < request.port < 65536 or not 0 < request.timeout <= 60_000:
            raise BadInput("cannot probe: kind is http or tcp, with a port, within a minute")
        ok, detail = probe.look(
            probe.Probe(
                kind=request.kind,
                address=request.address,
                port=request.port,
                timeout=request.timeout,
                path=request.path,
                host=request.host,
                statuses=tuple(request.statuses),
                contains=request.contains,
            )
        )
        channel.send({"ok": ok, "detail": detail[:500]})

    def _acme(self, channel: FrameChannel, request: AcmeRequest) -> None:
        """Answer with the chain, or with why there is none; ask for a signature whenever one is needed."""

        def sign(kind: str, url: str, nonce: str, kid: str) -> bytes:
            return channel.request({"sign": kind, "url": url, "nonce": nonce, "kid": kid}, timeout=30.0)[1]

        conversation = acme.Conversation(directory=request.directory, host=request.host, ca=request.ca, sign=sign)
        try:
            chain = conversation.run()
        except acme.Problem as problem:
            asked = int(min(problem.asked, 1e9) * 1000)
            channel.send({"problem": problem.detail, "kind": problem.kind, "asked": asked})
        else:
            channel.send({"ok": True}, chain)


def _read(head: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(head, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"cannot read a request: {error}") from error
