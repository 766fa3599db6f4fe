"""The verifier as a short-lived child: its parent never imports python-tuf or cryptography's PEM code (28 MB).

Protocol, frames of `wire/frames.py` over the child's file descriptor 0, a unix stream socket; a *blob* is one or more
frames {"op": "part", "last": bool} with at most 1 MiB of body each:

  parent: {"op": "verify", "directory", "root", "cluster_id", "source", "wanted": [...] | null}
  child:  {"op": "need", "name": "metadata/timestamp.json", "max": n}      any number of times, one at a time
  parent: {"op": "found"} + blob of at most n + 1 bytes | {"op": "absent"} | {"op": "failed", + wire.failures}
  child:  {"op": "verified"} + blob (canonical TrustedSet) | {"op": "refused", + wire.failures}     then it exits
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebh.host.channels import Channel, Closed, TimedOut, socket_pair
from nebh.host.run import Command, start
from nebh.model.errors import Broken, NebhError
from nebh.model.trust import TrustedSet
from nebh.wire import codec, failures, frames

Fetch = Callable[[str, int], bytes | None]
NEEDS_LIMIT = 20_000
RESULT_LIMIT = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What to verify. directory: python-tuf's folder of this source alone; root: file with the pinned root; wanted:
    release paths to read, None = every listed one."""

    directory: Path
    root: Path
    cluster_id: str
    source: str
    wanted: tuple[str, ...] | None = ()


def verify_in_child(request: Verification, fetch: Fetch, *, timeout: float = 60.0) -> TrustedSet:
    """Return what a fresh verifier process found, fetching through `fetch` (name, max) -> bytes or None.

    Raises what the verifier raised (Refused with its rule, Unreachable, BadInput), what `fetch` raised, and Broken
    when the child dies or takes longer than `timeout` seconds.
    """
    return _in(Child(), request, fetch, timeout=timeout)


class Child:
    """A verifier process that has been given nothing yet. Close it, or verify with it, once."""

    def __init__(self) -> None:
        self._ours, theirs = socket_pair()
        with theirs:
            argv = (sys.executable, "-s", "-m", "nebh.programs.verifier")
            self._process = start(Command(argv=argv, env={"PYTHONPATH": _module_path()}), stdin=theirs.fileno())

    @property
    def is_alive(self) -> bool:
        """Whether it still waits for its request."""
        return self._process.poll() is None

    def pipe(self, *, end: float) -> Pipe:
        """Return the way to it."""
        return Pipe(self._ours, end=end)

    def close(self) -> int:
        """End it; return the status it ended with."""
        self._process.kill()  # does nothing to a dead one, and wait() then tells how it died
        status = self._process.wait()
        self._ours.close()
        return status


class Verifiers:
    """Verifications, each in a process of its own. Most of one is loading the verifier: `expect` does that ahead."""

    def __init__(self, *, patience: float = 10.0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._ahead: Child | None = None
        self._timer: threading.Timer | None = None

    def expect(self) -> None:
        """Start the process of the next verification; it is ended when none comes within `patience` seconds."""
        self.close()
        with self._lock:
            self._ahead = Child()
            self._timer = threading.Timer(self._patience, self.close)
            self._timer.daemon = True
            self._timer.start()

    def verify(
        self, request: Verification, fetch: Fetch, *, another: bool = False, timeout: float = 60.0
    ) -> TrustedSet:
        """As `verify_in_child`. another: a second verification is likely to follow this one: expect it."""
        child = self._take()
        if child is not None and not child.is_alive:
            child.close()
            child = None
        child = child or Child()
        if another:
            with contextlib.suppress(OSError):  # a machine that is full must not lose this one for the next one's sake
                self.expect()
        return _in(child, request, fetch, timeout=timeout)

    def close(self) -> None:
        """End what waits."""
        child = self._take()
        if child is not None:
            child.close()

    def _take(self) -> Child | None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            child, self._ahead, self._timer = self._ahead, None, None
        return child


def _in(child: Child, request: Verification, fetch: Fetch, *, timeout: float) -> TrustedSet:
    with contextlib.closing(child):
        try:
            return _converse(child.pipe(end=time.monotonic() + timeout), request, fetch)
        except TimedOut as error:
            raise Broken(f"cannot verify {request.source}: the verifier took over {timeout:.0f} s") from error
        except Closed as error:
            status = child.close()
            raise Broken(f"cannot verify {request.source}: the verifier died (status {status})") from error


def _module_path() -> str:
    """Return where this very program tree lies; the child's environment is built from nothing."""
    return str(Path(__file__).parents[2])


class Pipe:
    """Frames and blobs over a channel until `end` (CLOCK_MONOTONIC seconds)."""

    def __init__(self, channel: Channel, *, end: float) -> None:
        self._channel = channel
        self._end = end

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        """Send one frame."""
        self._channel.send(frames.pack(dict(head), body), timeout=self._left())

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Return the next frame."""
        head, body = frames.PREFIX.unpack(self._channel.receive(frames.PREFIX.size, timeout=self._left()))
        frames.check_lengths(head, body)
        data = self._channel.receive(head + body, timeout=self._left())
        return frames.parse_head(data[:head]), data[head:]

    def send_blob(self, data: bytes) -> None:
        """Send bytes of any length."""
        for at in range(0, len(data) or 1, frames.BODY_LIMIT):
            last = at + frames.BODY_LIMIT >= len(data)
            self.send({"op": "part", "last": last}, data[at : at + frames.BODY_LIMIT])

    def receive_blob(self, *, limit: int) -> bytes:
        """Return bytes of at most `limit`. Raises Broken when there are more."""
        parts, size = [], 0
        while True:
            head, body = self.receive()
            size += len(body)
            if head.get("op") != "part" or size > limit:
                raise Broken("cannot read from the other side of the verifier: it breaks the protocol")
            parts.append(body)
            if head.get("last") is True:
                return b"".join(parts)

    def _left(self) -> float:
        return max(self._end - time.monotonic(), 0.001)


def _converse(pipe: Pipe, request: Verification, fetch: Fetch) -> TrustedSet:
    pipe.send(
        {
            "op": "verify",
            "directory": str(request.directory),
            "root": str(request.root),
            "cluster_id": request.cluster_id,
            "source": request.source,
            "wanted": None if request.wanted is None else list(request.wanted),
        }
    )
    for _ in range(NEEDS_LIMIT):
        head, _body = pipe.receive()
        match head.get("op"):
            case "need":
                _answer(pipe, fetch, name=str(head["name"]), limit=int(head["max"]))
            case "verified":
                data = pipe.receive_blob(limit=RESULT_LIMIT)
                return codec.decode(data, TrustedSet, what="what the verifier found", limit=RESULT_LIMIT)
            case "refused":
                raise failures.from_plain(head)
            case _:
                break
    raise Broken("cannot verify: the verifier breaks the protocol")


def _answer(pipe: Pipe, fetch: Fetch, *, name: str, limit: int) -> None:
    try:
        data = fetch(name, limit)
    except NebhError as error:
        # The child turns it into its own last word, so that there is one way for an error to come back.
        pipe.send({"op": "failed", **failures.to_plain(error)})
        return
    if data is None:
        pipe.send({"op": "absent"})
        return
    pipe.send({"op": "found"})
    pipe.send_blob(data[: limit + 1])
