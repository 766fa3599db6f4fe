"""A hostile mirror: wrong, cut, over-long, endless, slow and bomb-like answers, and redirects to where it cannot look
itself. What of it passes the agent is hashed by the executor (tests/attacks/test_byte_attacks.py)."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Callable, Iterator

import pytest

from nebh.client import mirror as mirrors
from nebh.client.mirror import parse_mirror
from nebh.host.channels import Channel, listening_tcp
from nebh.model.errors import NebhError, NotFound, Unreachable

LIMIT = 1000
DIGEST = "d" * 64


class Site:
    """One TCP port; every connection is answered by `answer`. asked: first lines."""

    def __init__(self, answer: Callable[[Channel], None]) -> None:
        self._answer = answer
        self._socket = listening_tcp("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.asked: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                channel = Channel(self._socket.accept()[0], name="a visitor")
                threading.Thread(target=self._talk, args=(channel,), daemon=True).start()

    def _talk(self, channel: Channel) -> None:
        with channel, contextlib.suppress(NebhError):
            self.asked.append(channel.receive_some(65536, timeout=20.0).split(b"\r\n")[0].decode())
            self._answer(channel)

    def close(self) -> None:
        self._socket.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mirror"


@pytest.fixture
def site() -> Iterator[Callable[[Callable[[Channel], None]], Site]]:
    made: list[Site] = []

    def make(answer: Callable[[Channel], None]) -> Site:
        made.append(Site(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


def says(head: str, body: bytes = b"") -> Callable[[Channel], None]:
    return lambda channel: channel.send(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)


def endless(channel: Channel) -> None:
    channel.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        channel.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def endless_head(channel: Channel) -> None:
    channel.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        channel.send(b"X-More: " + b"x" * 1000 + b"\r\n")


def silent(channel: Channel) -> None:
    channel.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
    channel.receive_some(1, timeout=20.0)


def taken(site: Site, *, limit: int = LIMIT) -> tuple[bytes | None, int]:
    """Return what the agent takes of a metadata file and, in bytes, of an object of `limit` bytes."""
    mirror = parse_mirror(site.url, pins=())
    found = mirror.metadata("metadata/timestamp.json", limit)
    count = 0

    def take(chunks: Iterator[bytes]) -> None:
        nonlocal count
        count += sum(map(len, chunks))

    mirror.objects(((DIGEST, limit),), take)
    return found, count


def test_an_honest_mirror_is_heard(site) -> None:
    one = site(says("200 OK\r\nContent-Length: 5", b"hello"))
    assert taken(one) == (b"hello", 5)
    assert one.asked == [
        "GET /mirror/metadata/timestamp.json HTTP/1.1",
        f"GET /mirror/objects/{DIGEST[:2]}/{DIGEST} HTTP/1.1",
    ]


@pytest.mark.parametrize("answer", [endless, says(f"200 OK\r\nContent-Length: {1 << 50}", b"x" * (1 << 20))])
def test_no_more_is_taken_than_was_asked_for(site, answer) -> None:
    found, count = taken(site(answer))
    assert found is not None
    assert (len(found), count) == (LIMIT + 1, LIMIT + 1), "one more says that it is too long"


def test_a_bomb_is_not_unpacked(site) -> None:
    bomb = gzip.compress(b"\0" * (8 << 20))
    head = f"200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}"
    found, _ = taken(site(says(head, bomb)), limit=1 << 20)
    assert found == bomb


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_not_followed(site, status: str) -> None:
    inside = site(says("200 OK\r\nContent-Length: 6", b"secret"))
    outside = site(says(f"{status}\r\nLocation: {inside.url}\r\nContent-Length: 0"))
    with pytest.raises(Unreachable):
        taken(outside)
    assert outside.asked
    assert not inside.asked


@pytest.mark.parametrize(
    "answer",
    [
        says("200 OK\r\nContent-Length: 10", b"cut"),
        says("200 OK\r\nContent-Length: 1\r\nContent-Length: 2", b"xx"),
        says("200 OK\r\nTransfer-Encoding: chunked", b"zz\r\n"),
        says("500 no"),
        says("204 No Content"),
        lambda channel: channel.send(b"\xff" * 5000),
        lambda channel: channel.send(b""),
        endless_head,
        silent,
    ],
    ids=["cut", "two lengths", "no chunk", "error", "nothing", "noise", "hang up", "endless head", "silent"],
)
def test_whatever_else_it_says_is_an_error_of_ours(site, answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "TIMEOUT", 0.5)
    with pytest.raises(NebhError) as caught:
        taken(site(answer))
    assert not isinstance(caught.value, NotFound)
