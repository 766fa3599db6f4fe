"""Frames on unix sockets: the calling side and a small threaded server.

A request is one frame with `op` in its head; answers are one frame or, where the operation says so, several. A failure
is answered by one frame whose head is `wire.failures.to_plain(error)`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from nebh.host.channels import Channel, Closed, Listener, Peer, TimedOut, connect_unix
from nebh.model.errors import BadInput, Broken, NebhError, Refused
from nebh.wire import failures, frames

Head = dict[str, Any]
Handler = Callable[["FrameChannel", Head, bytes, Peer], None]


class FrameChannel:
    """Frames over a connected channel. Not for two threads at once in the same direction."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def send(self, head: Head, body: bytes = b"", *, timeout: float | None = 30.0) -> None:
        """Send one frame. Raises BadInput (over the limits), Unreachable."""
        self._channel.send(frames.pack(head, body), timeout=timeout)

    def receive(self, timeout: float | None) -> tuple[Head, bytes]:
        """Return the next frame (head, body). Raises Closed (`partial` False: ended between two frames), TimedOut,
        BadInput for anything that is not a frame; only after a Closed or BadInput is the channel useless."""
        prefix = self._channel.receive(frames.PREFIX.size, timeout=timeout)
        head_size, body_size = frames.PREFIX.unpack(prefix)
        frames.check_lengths(head_size, body_size)
        rest = self._receive_rest(head_size + body_size)
        return frames.parse_head(rest[:head_size]), rest[head_size:]

    def _receive_rest(self, size: int) -> bytes:
        try:
            return self._channel.receive(size, timeout=30.0)
        except Closed as error:
            raise Closed(error.message, partial=True) from error
        except TimedOut as error:
            raise Closed(f"{self._channel.name} sent half a frame", partial=True) from error

    def request(self, head: Head, body: bytes = b"", *, timeout: float | None = 30.0) -> tuple[Head, bytes]:
        """Send one frame and return the answer. Raises what the other side answered, or Unreachable."""
        try:
            self.send(head, body, timeout=timeout)
        except Closed as closed:
            answer, answer_body = self._last_word(closed)
        else:
            answer, answer_body = self.receive(timeout)
        check_answer(answer)
        return answer, answer_body

    def _last_word(self, closed: Closed) -> tuple[Head, bytes]:
        """The other side stopped reading: it may have said why. Raises `closed` when it did not."""
        try:
            return self.receive(1.0)
        except NebhError:
            raise closed from None

    def peer(self) -> Peer:
        """Return the other process's credentials."""
        return self._channel.peer()

    def fileno(self) -> int:
        """Return the file descriptor, for select."""
        return self._channel.fileno()

    def shutdown(self) -> None:
        """Wake whoever waits on this channel."""
        self._channel.shutdown()

    def close(self) -> None:
        """Close."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_answer(head: Head) -> None:
    """Raise the error that an answer's head carries, if it carries one."""
    if "error" in head:
        raise failures.from_plain(head)


def connect_frames(path: Path, *, timeout: float = 5.0) -> FrameChannel:
    """Connect to a frame server. Raises Unreachable."""
    return FrameChannel(connect_unix(path, timeout=timeout))


class FrameServer:
    """Serves one unix socket: a thread that accepts, and one per connection (at most `connections`)."""

    def __init__(
        self,
        listener: Listener,
        handler: Handler,
        *,
        allowed_uids: frozenset[int] | None,
        connections: int,
        idle: float,
    ) -> None:
        self._listener = listener
        self._handler = handler
        self._allowed = allowed_uids
        self._slots = threading.BoundedSemaphore(connections)
        self._idle = idle
        self._lock = threading.Lock()
        self._open: dict[FrameChannel, threading.Thread] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name=f"accept {listener.path.name}", daemon=True)
        self._thread.start()

    def close(self, *, timeout: float = 5.0) -> None:
        """Stop accepting, end every connection, wait for their threads."""
        with self._lock:
            self._closing = True
            open_now = dict(self._open)
        self._listener.close()
        for channel in open_now:
            channel.shutdown()
        for thread in (self._thread, *open_now.values()):
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                channel = FrameChannel(self._listener.accept())
            except Closed:
                return
            thread = threading.Thread(target=self._serve, args=(channel,), name="frames", daemon=True)
            with self._lock:
                if self._closing:
                    channel.close()
                    return
                self._open[channel] = thread
            thread.start()

    def _serve(self, channel: FrameChannel) -> None:
        try:
            peer = channel.peer()
            if self._allowed is not None and peer.uid not in self._allowed:
                refusal = Refused(f"user {peer.uid} may not speak here", rule="peer", hint="ask as root")
                channel.send(failures.to_plain(refusal), timeout=1.0)
                return
            while True:
                head, body = channel.receive(self._idle)
                self._answer(channel, head, body, peer)
        except (Closed, TimedOut, OSError):
            return
        except BadInput as error:
            with contextlib.suppress(NebhError):
                channel.send(failures.to_plain(error), timeout=1.0)
        finally:
            with self._lock:
                self._open.pop(channel, None)
            channel.close()
            self._slots.release()

    def _answer(self, channel: FrameChannel, head: Head, body: bytes, peer: Peer) -> None:
        try:
            self._handler(channel, head, body, peer)
        except (Closed, TimedOut):
            raise
        except NebhError as error:
            channel.send(failures.to_plain(error))
        except Exception as error:
            what = f"cannot answer {head.get('op', '')!r}: {type(error).__name__}: {error}"
            channel.send(failures.to_plain(Broken(what, hint="this is a defect of Nebh: please report it")))
            raise


def serve_frames(
    path: Path,
    *,
    mode: int,
    handler: Handler,
    allowed_uids: frozenset[int] | None,
    connections: int = 32,
    idle: float = 3600.0,
    uid: int = -1,
    gid: int = -1,
) -> FrameServer:
    """Serve frames on `path` from threads of this process.

    handler(channel, head, body, peer) answers by `channel.send(...)`, once or more; an error of the tree it raises is
    answered for it. `allowed_uids` None lets everyone in; `idle`: seconds a connection may be silent. Raises OSError.
    """
    listener = Listener(path, mode=mode, uid=uid, gid=gid)
    return FrameServer(listener, handler, allowed_uids=allowed_uids, connections=connections, idle=idle)
