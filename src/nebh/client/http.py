"""HTTP/1.1 over a channel, with h11: bounded, synchronous, one request at a time per connection."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import h11

from nebh.host.channels import Channel, Closed
from nebh.model.errors import BadInput, Unreachable

HEAD_LIMIT = 32 * 1024
_READ = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """A status, headers (lower-case names), and the body's chunks, to be read before the next request."""

    status: int
    headers: dict[str, str]
    chunks: Iterator[bytes]

    def read(self, *, limit: int) -> bytes:
        """Return the whole body. Raises BadInput when it is longer than `limit`, Unreachable when it is cut."""
        data = bytearray()
        for chunk in self.chunks:
            data += chunk
            if len(data) > limit:
                raise BadInput(f"cannot take the answer: it is longer than {limit} bytes")
        return bytes(data)


class HttpConnection:
    """One connection. `host` goes into the Host header. Reusable as long as `reusable` says so."""

    def __init__(self, channel: Channel, *, host: str) -> None:
        self._channel = channel
        self._host = host
        self._state = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self.used = False

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._state.our_state is h11.IDLE and self._state.their_state is h11.IDLE

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: dict[str, str],
        body: bytes | Iterable[bytes] = b"",
        timeout: float,
    ) -> Answer:
        """Send a request and return the answer's head; its body is read from `chunks`.

        A body in pieces goes in chunks, unless `headers` say its Content-Length. timeout: seconds for each wait. Raises Closed, TimedOut (both Unreachable), BadInput for what is not HTTP.
        """
        fields = [("Host", self._host), ("Connection", "keep-alive"), *headers.items()]
        whole = isinstance(body, bytes)
        if "Content-Length" not in headers:
            fields.append(
                ("Content-Length", str(len(body))) if isinstance(body, bytes) else ("Transfer-Encoding", "chunked")
            )
        try:
            head = self._state.send(h11.Request(method=method, target=target, headers=fields)) or b""
            pieces: Iterable[bytes] = (body,) if isinstance(body, bytes) else body
            if whole:
                head += b"".join(self._data(piece) for piece in pieces)
                self._channel.send(head + (self._state.send(h11.EndOfMessage()) or b""), timeout=timeout)
            else:
                self._channel.send(head, timeout=timeout)
                for piece in pieces:
                    self._channel.send(self._data(piece), timeout=timeout)
                self._channel.send(self._state.send(h11.EndOfMessage()) or b"", timeout=timeout)
        except h11.LocalProtocolError as error:
            raise BadInput(f"cannot send this request: {error}") from error
        except Closed:
            return self._answer_before_end(timeout)
        return self._answer(timeout)

    def _data(self, piece: bytes) -> bytes:
        return (self._state.send(h11.Data(data=piece)) or b"") if piece else b""

    def _answer_before_end(self, timeout: float) -> Answer:
        """The server stopped reading: it may have said why."""
        answer = self._answer(timeout)
        return Answer(answer.status, {**answer.headers, "connection": "close"}, answer.chunks)

    def _answer(self, timeout: float) -> Answer:
        while True:
            event = self._next(timeout)
            if isinstance(event, h11.Response):
                self.used = True
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                return Answer(event.status_code, headers, self._body(timeout))
            if not isinstance(event, h11.InformationalResponse):
                raise BadInput("cannot read the answer: it does not begin like HTTP")

    def _body(self, timeout: float) -> Iterator[bytes]:
        while True:
            event = self._next(timeout)
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self._state.our_state is h11.DONE and self._state.their_state is h11.DONE:
                    self._state.start_next_cycle()
                return
            else:
                raise Closed("the answer was cut", partial=True)

    def _next(self, timeout: float) -> object:
        end = time.monotonic() + timeout
        try:
            while (event := self._state.next_event()) is h11.NEED_DATA:
                data = self._channel.receive_some(_READ, timeout=max(0.001, end - time.monotonic()))
                if not data and self._state.their_state is h11.SEND_RESPONSE and not self._started():
                    raise Closed(f"{self._channel.name} closed the connection", partial=False)
                self._state.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise Unreachable(f"cannot read the answer of {self._channel.name}: {error}") from error
        return event

    def _started(self) -> bool:
        return bool(self._state.trailing_data[0])

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
