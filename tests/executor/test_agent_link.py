"""What the executor takes from an agent that drips, sends nothing at all, or never ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nebh.client.frame_channel import FrameChannel, FrameServer, Head, serve_frames
from nebh.executor.agent_link import SLOWEST, AgentLink
from nebh.host.channels import Peer
from nebh.model.errors import BadInput, NebhError, Unreachable

DIGEST = "d" * 64


@pytest.fixture
def agent(short_folder: Path) -> Iterator[Callable[[Callable[[FrameChannel, Head], None]], Path]]:
    servers: list[FrameServer] = []

    def serve(answer: Callable[[FrameChannel, Head], None]) -> Path:
        def handle(channel: FrameChannel, head: Head, _body: bytes, _peer: Peer) -> None:
            try:
                answer(channel, head)
            except NebhError:
                pass  # the executor hung up

        path = short_folder / "agent.sock"
        servers.append(serve_frames(path, mode=0o600, handler=handle, allowed_uids=None))
        return path

    yield serve
    for one in servers:
        one.close(timeout=1.0)


def pieces(piece: bytes, *, last: bool = False) -> Callable[[FrameChannel, Head], None]:
    def answer(channel: FrameChannel, head: Head) -> None:
        if head["op"] == "metadata":
            channel.send({"ok": True, "size": head["max"]}, b"{")
        while True:
            channel.send({"digest": DIGEST, "last": last}, piece)

    return answer


def every_second(step: float = 1.0) -> Callable[[], float]:
    ticks = itertools.count(0.0, step)
    return lambda: next(ticks)


def fetch(link: AgentLink, *, size: int = 1 << 30) -> int:
    found = 0

    def take(_digest: str, _size: int, chunks: Iterator[bytes]) -> None:
        nonlocal found
        for chunk in chunks:
            found += len(chunk)
            if found > size:
                raise BadInput("more than was asked for")

    link.objects(((DIGEST, size),), take)
    return found


def test_an_agent_that_drips_is_left(agent) -> None:
    link = AgentLink(agent(pieces(b"x")), timeout=5.0, monotonic=every_second())
    with pytest.raises(Unreachable, match="too slow"):
        fetch(link)
    with pytest.raises(Unreachable, match="too slow"):
        link.metadata(source="controller", name="metadata/timestamp.json", limit=1 << 20)


def test_an_agent_that_sends_pieces_of_nothing_is_left_at_once(agent) -> None:
    link = AgentLink(agent(pieces(b"")))
    with pytest.raises(BadInput):
        fetch(link)
    with pytest.raises(BadInput):
        link.metadata(source="controller", name="metadata/timestamp.json", limit=1 << 20)


def test_a_slow_agent_that_keeps_the_pace_is_heard_out(agent) -> None:
    size = 40 * SLOWEST

    def answer(channel: FrameChannel, _head: Head) -> None:
        for number in range(1, 41):
            channel.send({"digest": DIGEST, "last": number == 40}, b"x" * SLOWEST)

    link = AgentLink(agent(answer), timeout=5.0, monotonic=every_second())
    assert fetch(link, size=size) == size


def test_an_object_of_no_bytes_is_one_last_frame(agent) -> None:
    def answer(channel: FrameChannel, _head: Head) -> None:
        channel.send({"digest": DIGEST, "last": True})

    assert fetch(AgentLink(agent(answer)), size=0) == 0


def test_metadata_has_exactly_the_size_that_was_said(agent) -> None:
    sizes = iter((3, 200, -1, "many"))

    def answer(channel: FrameChannel, _head: Head) -> None:
        channel.send({"ok": True, "size": next(sizes)}, b"abcd")

    link = AgentLink(agent(answer))
    for _ in range(4):
        with pytest.raises(BadInput):
            link.metadata(source="controller", name="metadata/x", limit=100)


def test_the_agent_is_told_the_signed_mirrors(agent) -> None:
    heads: list[Head] = []

    def answer(channel: FrameChannel, head: Head) -> None:
        heads.append(head)
        channel.send({"digest": DIGEST, "last": True} if head["op"] == "objects" else {"ok": True, "size": 0})

    link = AgentLink(agent(answer))
    fetch(link, size=0)
    link.mirrors = lambda: ("http://mirror.example/nebh",)
    fetch(link, size=0)
    link.metadata(source="mirror-0", name="metadata/x", limit=100)
    assert [one.get("mirrors") for one in heads] == [None, *[["http://mirror.example/nebh"]] * 2]
