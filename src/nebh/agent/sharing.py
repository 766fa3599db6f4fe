"""Objects for neighbours: GET /objects/ab/<sha256> over plain HTTP, as a mirror serves them. Whoever asks names a hash,
and checks what comes."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import Final

import h11

from nebh.agent.delivery import Held
from nebh.host.channels import Channel, listening_tcp
from nebh.host.throttle import Throttle
from nebh.model.errors import BadInput, NebhError

AT_ONCE: Final = 8
IDLE: Final = 20.0
_TARGET: Final = re.compile(rb"/objects/([0-9a-f]{2})/(\1[0-9a-f]{62})\Z")
_RANGE: Final = re.compile(rb"bytes=([0-9]{1,15})-\Z")
_PIECE: Final = 256 << 10


class Sharing:
    """Serves what this node holds, to AT_ONCE neighbours at a time; more wait."""

    def __init__(self, held: Held, address: str, *, throttle: Throttle | None = None) -> None:
        """address: `ADDR:PORT`. Raises BadInput when nothing can listen there."""
        host, _, port = address.rpartition(":")
        if not port.isdigit() or not 0 <= int(port) < 65536:
            raise BadInput(f"cannot share objects on {address!r}", hint="write ADDRESS:PORT")
        try:
            self._socket = listening_tcp(host.strip("[]"), int(port))
        except OSError as error:
            raise BadInput(f"cannot share objects on {address}: {error.strerror}") from error
        self.port = int(self._socket.getsockname()[1])
        self._held, self._throttle = held, throttle or Throttle()
        self._places = threading.Semaphore(AT_ONCE)
        threading.Thread(target=self._serve, name="sharing", daemon=True).start()

    def close(self) -> None:
        """Take nobody in any more."""
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._places.acquire()
                try:
                    channel = Channel(self._socket.accept()[0], name="a neighbour")
                except OSError:
                    self._places.release()
                    raise
                threading.Thread(target=self._talk, args=(channel,), name="neighbour", daemon=True).start()

    def _talk(self, channel: Channel) -> None:
        try:
            with channel, contextlib.suppress(NebhError, OSError, h11.ProtocolError):
                self._answer(channel)
        finally:
            self._places.release()

    def _answer(self, channel: Channel) -> None:
        state = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=8192)
        while (event := state.next_event()) is h11.NEED_DATA:
            state.receive_data(channel.receive_some(8192, timeout=IDLE))
        if not isinstance(event, h11.Request):
            return
        found = _TARGET.match(event.target) if event.method == b"GET" else None
        descriptor = self._held.open(found[2].decode()) if found is not None else None
        if descriptor is None:
            head = h11.Response(status_code=404, headers=[("Content-Length", "0"), ("Connection", "close")])
            channel.send((state.send(head) or b"") + (state.send(h11.EndOfMessage()) or b""), timeout=IDLE)
            return
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            self._send(channel, state, descriptor, _offset_of(event))

    def _send(self, channel: Channel, state: h11.Connection, descriptor: int, offset: int) -> None:
        size = os.fstat(descriptor).st_size
        left = max(0, size - offset)
        headers = [("Content-Length", str(left)), ("Connection", "close")]
        if offset:
            headers.append(("Content-Range", f"bytes {offset}-{max(offset, size - 1)}/{size}"))
        channel.send(state.send(h11.Response(status_code=206 if offset else 200, headers=headers)) or b"", timeout=IDLE)
        while left and (piece := os.pread(descriptor, min(left, _PIECE), offset)):
            self._throttle.wait_for(len(piece))
            channel.send(state.send(h11.Data(data=piece)) or b"", timeout=IDLE)
            offset, left = offset + len(piece), left - len(piece)
        if not left:
            channel.send(state.send(h11.EndOfMessage()) or b"", timeout=IDLE)


def _offset_of(request: h11.Request) -> int:
    for name, value in request.headers:
        found = _RANGE.match(value) if name == b"range" else None
        if found is not None:
            return int(found[1])
    return 0
