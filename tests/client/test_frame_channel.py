"""Frames over real unix sockets: requests, streams, refusals, garbage, closing."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.client.frame_channel import FrameChannel, FrameServer, Head, check_answer, connect_frames, serve_frames
from nebh.host.channels import Closed, Listener, Peer, TimedOut, connect_unix
from nebh.model.errors import BadInput, Broken, NotFound, Refused, Unreachable
from nebh.wire import failures, frames

MINE = frozenset({os.getuid()})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: unix socket paths are short."""
    path = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def _handler(channel: FrameChannel, head: Head, body: bytes, peer: Peer) -> None:
    match head["op"]:
        case "echo":
            channel.send({"uid": peer.uid}, body)
        case "count":
            for number in range(head["to"]):
                channel.send({"number": number}, b"x" * 1000)
        case "absent":
            raise NotFound("cannot find it", hint="look elsewhere")
        case "refuse":
            raise Refused("no", rule="N5")
        case "hang":
            time.sleep(head["ms"] / 1000)
            channel.send({})


@pytest.fixture
def server(folder: Path) -> Iterator[FrameServer]:
    """A server of the handler above."""
    made = serve_frames(folder / "a.sock", mode=0o600, handler=_handler, allowed_uids=MINE, connections=3)
    yield made
    made.close()


def test_requests_streams_and_errors(folder: Path, server: FrameServer) -> None:
    assert (folder / "a.sock").stat().st_mode & 0o777 == 0o600
    with connect_frames(folder / "a.sock") as channel:
        assert channel.request({"op": "echo"}, b"\0body") == ({"uid": os.getuid()}, b"\0body")
        channel.send({"op": "count", "to": 5})
        assert [channel.receive(5)[0]["number"] for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(NotFound) as absent:
            channel.request({"op": "absent"})
        assert absent.value.hint == "look elsewhere"
        with pytest.raises(Refused) as refused:
            channel.request({"op": "refuse"})
        assert refused.value.rule == "N5"
        with pytest.raises(TimedOut):
            channel.request({"op": "hang", "ms": 300}, timeout=0.05)


def test_other_users_are_refused(folder: Path) -> None:
    server = serve_frames(folder / "b.sock", mode=0o666, handler=_handler, allowed_uids=frozenset({os.getuid() + 1}))
    with connect_frames(folder / "b.sock") as channel, pytest.raises(Refused):
        channel.request({"op": "echo"})
    server.close()


def test_a_refusal_is_heard_though_the_server_has_hung_up_before_we_ask(folder: Path) -> None:
    listener = Listener(folder / "e.sock", mode=0o600)
    with connect_frames(folder / "e.sock") as channel:
        with listener.accept() as served:
            served.send(frames.pack(failures.to_plain(Refused("not you", rule="peer")), b""))
        with pytest.raises(Refused, match="not you"):
            channel.request({"op": "echo"})
    listener.close()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", frames.PREFIX.pack(1 << 30, 0), frames.PREFIX.pack(2, 0) + b"[]", b"\0" * 64],
)
def test_garbage_is_answered_and_the_connection_closed(folder: Path, server: FrameServer, garbage: bytes) -> None:
    with connect_unix(folder / "a.sock") as raw:
        raw.send(garbage)
        channel = FrameChannel(raw)
        with pytest.raises(BadInput):
            check_answer(channel.receive(5)[0])
        with pytest.raises(Closed):
            channel.receive(5)
    with connect_frames(folder / "a.sock") as channel:
        assert channel.request({"op": "echo"})[0]["uid"] == os.getuid()


def test_half_a_frame_is_partial_and_a_clean_end_is_not(folder: Path, server: FrameServer) -> None:
    with connect_frames(folder / "a.sock") as channel:
        channel.request({"op": "echo"})
        server.close()
        with pytest.raises(Closed) as ended:
            channel.receive(5)
        assert not ended.value.partial
    with pytest.raises(Unreachable):
        connect_frames(folder / "a.sock")


def test_connections_beyond_the_limit_wait_for_a_place(folder: Path, server: FrameServer) -> None:
    first = [connect_frames(folder / "a.sock") for _ in range(3)]
    for channel in first:
        channel.request({"op": "echo"})
    with connect_frames(folder / "a.sock") as late:
        late.send({"op": "echo"})
        with pytest.raises(TimedOut):
            late.receive(0.1)
        first[0].close()
        assert late.receive(5)[0] == {"uid": os.getuid()}
    for channel in first:
        channel.close()


def test_a_new_server_takes_the_path_of_a_dead_one(folder: Path) -> None:
    before = set(threading.enumerate())
    first = serve_frames(folder / "c.sock", mode=0o600, handler=_handler, allowed_uids=MINE)
    second = serve_frames(folder / "c.sock", mode=0o600, handler=_handler, allowed_uids=MINE)
    first.close()
    with connect_frames(folder / "c.sock") as channel:
        assert channel.request({"op": "echo"})[0]["uid"] == os.getuid()
    second.close()
    assert not (folder / "c.sock").exists()
    until = time.monotonic() + 30
    while threads := set(threading.enumerate()) - before:
        assert time.monotonic() < until, f"threads outlive their servers: {threads}"
        time.sleep(0.01)


def test_a_defect_in_a_handler_is_answered_as_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def broken(channel: FrameChannel, head: Head, body: bytes, peer: Peer) -> None:
        raise ZeroDivisionError

    server = serve_frames(folder / "d.sock", mode=0o600, handler=broken, allowed_uids=MINE)
    with connect_frames(folder / "d.sock") as channel, pytest.raises(Broken):
        channel.request({"op": "echo"})
    server.close()
