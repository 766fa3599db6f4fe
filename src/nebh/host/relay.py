"""The only way out of a fence: an HTTP proxy that looks names up itself and connects to the address it has checked.

It runs in a child of its own (see nebh.host.fence), speaks CONNECT and plain HTTP requests, and passes the connections
of a few loopback ports to the place that each stands for. What it refuses and whom it does not reach it reports, a line of JSON
each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import h11

from nebh.host.reach import Place, Proxy, Reach, is_internal, parse_place

_HEAD: Final = 64 << 10
_CHUNK: Final = 64 << 10
_MOST: Final = 64
_MOST_REPORTS: Final = 16
_CONNECT_SECONDS: Final = 15.0
_HEAD_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 300.0
_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade"})

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Headers = list[tuple[bytes, bytes]]


class Denied(Exception):
    """The address is none that may be asked."""


class Unavailable(Exception):
    """The name is unknown, or nobody answers there."""


@dataclass
class Relay:
    """reach: what may be asked. report: a pipe for what was refused and what failed."""

    reach: Reach
    report: int
    _open: int = 0
    _reported: int = 0
    _internal: dict[str, tuple[str, ...]] = field(default_factory=dict)

    async def serve(self, doors: Iterable[tuple[socket.socket, Place | None]]) -> None:
        """Serve listening sockets without end: those with a place lead there, the others speak HTTP."""
        async with contextlib.AsyncExitStack() as stack:
            for door, place in doors:

                async def serve_one(
                    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: Place | None = place
                ) -> None:
                    await self._serve_one((reader, writer), place)

                await stack.enter_async_context(await asyncio.start_server(serve_one, sock=door, limit=_HEAD))
            await asyncio.Event().wait()

    async def _serve_one(self, inward: Streams, place: Place | None) -> None:
        self._open += 1
        try:
            if self._open > _MOST:
                return
            if place is None:
                await self._converse(inward)
            else:
                outward = await self._connect(place)
                await _splice(inward, outward)
        except Unavailable as error:
            self._tell({"trouble": str(error)})
        except (OSError, EOFError, h11.ProtocolError, Denied):
            pass  # both sides see the connection closed
        finally:
            self._open -= 1
            inward[1].close()

    async def _converse(self, inward: Streams) -> None:
        side = _Side(inward, h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD))
        request = await side.next()
        if not isinstance(request, h11.Request):
            return
        tunnel = request.method == b"CONNECT"
        try:
            place, path = _parse_target(request, tunnel=tunnel)
            await (self._tunnel(side, place) if tunnel else self._forward(side, request, place, path))
        except Denied as error:
            await side.answer(403, str(error))
        except Unavailable as error:
            self._tell({"trouble": str(error)})
            await side.answer(502, str(error))
        except ValueError:
            await side.answer(400, "this is a proxy")

    async def _tunnel(self, side: _Side, place: Place) -> None:
        proxy = self.reach.proxy_for("https", place.host)
        rest = b""
        if proxy is None:
            outward = await self._connect(place)
        else:
            outward = await self._connect_proxy(proxy, place)
            other = _Side(outward, h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD))
            headers = [(b"host", str(place).encode()), *_login(proxy)]
            try:
                await other.send(h11.Request(method="CONNECT", target=str(place), headers=headers), h11.EndOfMessage())
                answer = await other.next()
                if not isinstance(answer, h11.Response) or not 200 <= answer.status_code < 300:
                    status = getattr(answer, "status_code", "nothing")
                    raise Unavailable(f"the proxy {proxy.place} answers {status} for {place}")
            except BaseException:
                outward[1].close()
                raise
            rest = other.connection.trailing_data[0]
        await side.send(h11.Response(status_code=200, headers=[], reason=b"connected"))
        outward[1].write(side.connection.trailing_data[0])
        side.streams[1].write(rest)
        await _splice(side.streams, outward)

    async def _forward(self, side: _Side, request: h11.Request, place: Place, path: bytes) -> None:
        proxy = self.reach.proxy_for("http", place.host)
        outward = await (self._connect(place) if proxy is None else self._connect_proxy(proxy, place))
        try:
            other = _Side(outward, h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD))
            headers = [*_end_to_end(request.headers.raw_items()), (b"connection", b"close")]
            if proxy is not None:
                path, headers = request.target, headers + _login(proxy)
            await other.send(h11.Request(method=request.method, target=path, headers=headers))
            async for event in side.rest():
                await other.send(event)
            async for event in other.rest():
                if isinstance(event, h11.Response):
                    kept = [*_end_to_end(event.headers.raw_items()), (b"connection", b"close")]
                    answer = h11.Response(status_code=event.status_code, headers=kept, reason=event.reason)
                    await side.send(answer)
                elif not isinstance(event, h11.InformationalResponse):
                    await side.send(event)
        finally:
            outward[1].close()

    async def _connect_proxy(self, proxy: Proxy, place: Place) -> Streams:
        """Connect to a person's proxy, which looks names up; an address or a name of this computer is checked here."""
        if _is_literal(place.host):
            await self._addresses(place)
        for address in await _look_up(proxy.place):
            with contextlib.suppress(OSError):
                secure = ssl.create_default_context() if proxy.tls else None
                name = proxy.place.host if proxy.tls else None
                return await _open(address, proxy.place.port, secure=secure, name=name)
        raise Unavailable(f"cannot connect to the proxy {proxy.place}")

    async def _connect(self, place: Place) -> Streams:
        why = ""
        for address in await self._addresses(place):
            try:
                return await _open(address, place.port)
            except OSError as error:
                why = os.strerror(error.errno) if error.errno else "no answer"
        raise Unavailable(f"cannot connect to {place}: {why}")

    async def _addresses(self, place: Place) -> tuple[str, ...]:
        """Return the checked addresses of a place. Raises Denied, Unavailable."""
        named = place in self.reach.named
        if named and self._internal.get(place.host):
            return self._internal[place.host]
        found = await _look_up(place)
        inside = tuple(address for address in found if is_internal(address))
        outside = tuple(address for address in found if address not in inside)
        if named:
            # What the name means when it is first asked counts. Who can make it mean something else later could
            # otherwise lead a request to the registry to an internal address.
            self._internal.setdefault(place.host, () if outside else inside)
        answer = outside or (self._internal[place.host] if named else ())
        if not answer:
            self._tell({"host": place.host, "port": place.port, "address": inside[0]})
            raise Denied(f"{place} is {inside[0]}, an internal address")
        return answer

    def _tell(self, said: dict[str, str | int]) -> None:
        self._reported += 1
        if self._reported <= _MOST_REPORTS:
            kept = {name: value[:500] if isinstance(value, str) else value for name, value in said.items()}
            os.write(self.report, json.dumps(kept).encode() + b"\n")


class _Side:
    """A connection, and h11's view of what passes over it."""

    def __init__(self, streams: Streams, connection: h11.Connection) -> None:
        self.streams = streams
        self.connection = connection

    async def next(self, *, within: float = _HEAD_SECONDS) -> Any:
        """Return the next event. Raises TimeoutError, h11.ProtocolError."""
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            self.connection.receive_data(await asyncio.wait_for(self.streams[0].read(_CHUNK), within))
        return event

    async def rest(self) -> AsyncIterator[Any]:
        """Yield the events of the message that has begun, its end included."""
        while True:
            event = await self.next(within=_IDLE_SECONDS)
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise EOFError
            yield event
            if isinstance(event, h11.EndOfMessage):
                return

    async def send(self, *events: Any) -> None:
        """Send events as bytes."""
        for event in events:
            self.streams[1].write(self.connection.send(event) or b"")
        await asyncio.wait_for(self.streams[1].drain(), _IDLE_SECONDS)

    async def answer(self, status: int, text: str) -> None:
        """Answer with an error; Go's programs print the reason of a refused tunnel, and the body of others."""
        reason = text.encode("ascii", "replace")
        headers = [(b"content-length", str(len(reason)).encode()), (b"connection", b"close")]
        response = h11.Response(status_code=status, headers=headers, reason=reason)
        await self.send(response, h11.Data(data=reason), h11.EndOfMessage())


def _parse_target(request: h11.Request, *, tunnel: bool) -> tuple[Place, bytes]:
    """Return whom a request is for, and the path to ask there. Raises ValueError."""
    target = request.target.decode("ascii")
    if tunnel:
        return parse_place(target), b""
    parts = urlsplit(target)
    if parts.scheme != "http":
        raise ValueError(target)
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    return parse_place(parts.netloc.rpartition("@")[2], port=80), path.encode("ascii")


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in _HOP]


def _login(proxy: Proxy) -> Headers:
    return [(b"proxy-authorization", proxy.authorization.encode())] if proxy.authorization else []


def _is_literal(host: str) -> bool:
    """Tell whether no name server is needed: addresses as anybody writes them, and names of this computer."""
    if host.rstrip(".").rpartition(".")[2] == "localhost":
        return True
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


async def _look_up(place: Place) -> tuple[str, ...]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no name"
        raise Unavailable(f"cannot look up {place.host}: {why}") from error
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


async def _open(address: str, port: int, *, secure: ssl.SSLContext | None = None, name: str | None = None) -> Streams:
    opening = asyncio.open_connection(address, port, limit=_HEAD, ssl=secure, server_hostname=name)
    return await asyncio.wait_for(opening, _CONNECT_SECONDS)


async def _splice(one: Streams, other: Streams) -> None:
    """Copy both ways until either side ends or nothing has passed for a while; closes `other`."""
    clock = asyncio.get_running_loop().time
    last = clock()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal last
        while data := await reader.read(_CHUNK):
            last = clock()
            writer.write(data)
            await writer.drain()
            last = clock()

    tasks = {asyncio.create_task(copy(one[0], other[1])), asyncio.create_task(copy(other[0], one[1]))}
    try:
        done: set[asyncio.Task[None]] = set()
        while not done and (left := last + _IDLE_SECONDS - clock()) > 0:
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        other[1].close()
