"""The two sockets of a node under garbage that is made, not thought of: cut, shuffled, over-long, doubled, nested.

The doors themselves are real (the executor's with an intake that counts what it was told to do, the agent's with
sources that count what they were asked for), in this process: nothing may be executed, nobody may die, and a good
client is served afterwards. The whole executor under hand-made garbage: test_assignment_attacks.py.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nebh.agent.door import Door as AgentDoor
from nebh.client.frame_channel import connect_frames, serve_frames
from nebh.executor.door import Door
from nebh.host.channels import Closed, connect_unix
from nebh.model.errors import BadInput, NebhError, Refused
from nebh.model.statement import Assignment, Order
from nebh.signing.statements import Seed, peek_statement, sign_statement, verify_statement
from nebh.wire import frames

CONTROLLER = Seed(b"t" * 32)
GOOD: dict[str, dict[str, Any]] = {
    "executor": {"op": "poll", "receipt": 0, "event": 0, "wait_ms": 0},
    "agent": {"op": "metadata", "source": "controller", "name": "metadata/timestamp.json", "max": 100},
}
HEADS: list[dict[str, Any]] = [
    *GOOD.values(),
    {"op": "submit", "kind": "assignment", "source": "controller"},
    {"op": "submit", "kind": "order", "source": "controller"},
    {"op": "logs", "service": "web", "cursors": {}, "limit": 10},
    {"op": "transport", "public": "a" * 64},
    {"op": "status"},
    {"op": "rollback", "service": "web", "to": 1},
    {"op": "objects", "items": [["a" * 64, 10]]},
    {"op": "objects", "items": [["a" * 64, 10]], "mirrors": ["https://mirror.example"]},
]


class Counter:
    """Intake, look, identity and sources at once. done: what was really carried out."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.orders = self

    def assignment(self, envelope: bytes) -> None:
        peek_statement(envelope, "assignment", Assignment)
        verify_statement(envelope, "assignment", Assignment, keys=(CONTROLLER.public,))
        self.done.append("assignment")

    def order(self, envelope: bytes) -> None:
        peek_statement(envelope, "order", Order)
        verify_statement(envelope, "order", Order, keys=(CONTROLLER.public,))
        self.done.append("order")

    def hint(self) -> None: ...

    def roll_back(self, service: str, *, to: int = 0) -> None:
        del service, to
        raise Refused("not here", rule="N5")

    def news(self, *, receipt: int, event: int) -> dict[str, Any]:
        return {"receipts": [], "events": [], "seen": [receipt, event]}

    def logs(self, **_: Any) -> dict[str, Any]:
        return {"lines": []}

    def status(self) -> dict[str, Any]:
        return {"running": []}

    def sign_transport(self, public: str) -> bytes:
        return public.encode()[:10]

    def metadata(self, source: str, name: str, limit: int, *, signed: tuple[str, ...] = ()) -> bytes | None:
        return f"{source} {name} {limit} {len(signed)}".encode()[:10]

    def objects(self, items: Any, take: Any, *, signed: tuple[str, ...] = ()) -> None:
        del signed
        for item in items:
            take(item, iter((b"x",)))


class Nobody:
    """The part of a context that a door needs."""

    def __init__(self, counter: Counter) -> None:
        self.outbox, self.news = self, 0
        self._counter = counter

    def newest(self) -> tuple[int, int]:
        return (0, 0)

    def wait_for_news(self, seen: int, *, seconds: float) -> None: ...

    def event(self, *_: Any, **__: Any) -> None: ...


@pytest.fixture(scope="module")
def doors() -> Iterator[tuple[dict[str, Path], Counter, list[str]]]:
    crashes: list[str] = []
    before = threading.excepthook
    threading.excepthook = lambda found: crashes.append(f"{found.exc_type.__name__}: {found.exc_value}")
    counter = Counter()
    parts: Any = counter
    context: Any = Nobody(counter)
    door = Door(context, intake=parts, look=parts, answers=parts, identity=parts)
    with tempfile.TemporaryDirectory(prefix="nt-", dir="/tmp") as folder:
        paths = {name: Path(folder) / f"{name}.sock" for name in GOOD}
        servers = [
            serve_frames(paths["executor"], mode=0o600, handler=door._handle, allowed_uids=None),
            serve_frames(paths["agent"], mode=0o600, handler=AgentDoor(parts).handle, allowed_uids=None),
        ]
        yield paths, counter, crashes
        for one in servers:
            one.close(timeout=1.0)
    threading.excepthook = before


def framed(head: bytes, body: bytes = b"") -> bytes:
    return frames.PREFIX.pack(len(head), len(body)) + head + body


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
good_head = st.sampled_from(HEADS)
changed_head = st.builds(
    lambda head, more: {**head, **more},
    good_head,
    st.dictionaries(
        st.sampled_from(
            [
                "op",
                "kind",
                "source",
                "receipt",
                "event",
                "wait_ms",
                "service",
                "to",
                "items",
                "max",
                "name",
                "cursors",
                "mirrors",
                "x",
            ]
        ),
        plain,
        max_size=3,
    ),
)
doubled = st.builds(lambda head: canonical(head)[:-1] + b',"op":"status"}', good_head)
nested = st.builds(
    lambda depth, opener: b'{"op":' + opener * depth, st.integers(1, 5000), st.sampled_from([b"[", b'{"a":'])
)
envelopes = st.builds(
    lambda kind, key, value: sign_statement(kind, value, key),
    st.sampled_from(["assignment", "order", "receipt", "transport"]),
    st.sampled_from([CONTROLLER, Seed(b"x" * 32)]),
    st.dictionaries(st.text(max_size=8), st.integers(0, 99) | st.text(max_size=8), max_size=4),
)
bodies = st.binary(max_size=200) | envelopes | envelopes.map(lambda data: data[: len(data) // 2])
one_frame = st.one_of(
    st.builds(framed, good_head.map(canonical), bodies),
    st.builds(framed, changed_head.map(canonical), bodies),
    st.builds(framed, doubled, bodies),
    st.builds(framed, nested),
    st.builds(framed, st.binary(max_size=300)),
    st.builds(
        lambda a, b, rest: frames.PREFIX.pack(a, b) + rest,
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=100),
    ),
)
streams = st.one_of(
    st.lists(one_frame, min_size=1, max_size=4).map(b"".join),
    st.builds(lambda data, cut: data[:cut], one_frame, st.integers(0, 400)),
    st.builds(lambda data, at: data[at:] + data[:at], one_frame, st.integers(0, 400)),
    st.builds(lambda data: data[::-1], one_frame),
)


def talk(path: Path, data: bytes) -> bytes:
    """Send everything, say that no more comes, return what was answered."""
    answer = b""
    with contextlib.suppress(Closed), connect_unix(path) as channel:
        channel.send(data)
        channel.finish()
        while more := channel.receive_some(1 << 16, timeout=60.0):
            answer += more
    return answer


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(GOOD)), data=streams)
@example(name="executor", data=framed(b'{"op":"submit","kind":"assignment","kind":"order","source":"controller"}'))
@example(name="executor", data=frames.PREFIX.pack(2**32 - 1, 2**32 - 1) + b"{}")
@example(name="executor", data=framed(b"[" * 100_000))
@example(name="agent", data=framed(b'{"op":' + b'{"a":' * 50_000))
@example(name="agent", data=framed(b'{"items":[["' + b"a" * 64 + b'",9007199254740993]],"op":"objects"}'))
@example(name="executor", data=framed(b'{"op":"poll","receipt":1e400}'))
@example(name="executor", data=framed(b'{"op":"\xed\xa0\x80"}'))
def test_garbage_is_answered_and_does_nothing(
    doors: tuple[dict[str, Path], Counter, list[str]], name: str, data: bytes
) -> None:
    paths, counter, crashes = doors
    answer = talk(paths[name], data)
    assert b"Traceback" not in answer
    assert b"this is a defect" not in answer, answer
    assert not crashes, crashes
    assert not counter.done, counter.done
    with connect_frames(paths[name]) as channel:
        assert channel.request(GOOD[name])[0]


def test_a_well_signed_statement_is_carried_out(doors: tuple[dict[str, Path], Counter, list[str]]) -> None:
    """The positive control: the same door, the same counter."""
    paths, counter, _ = doors
    wish = {
        "assignment_id": "a",
        "cluster_id": "c",
        "counter": 1,
        "epoch": 1,
        "node_id": "n",
        "nonce": "x",
        "phase": "run",
        "replicas": 1,
        "seq": 1,
        "service": "web",
    }
    head = {"op": "submit", "kind": "assignment", "source": "controller"}
    with connect_frames(paths["executor"]) as channel:
        for body in (sign_statement("assignment", wish, Seed(b"x" * 32)), sign_statement("order", wish, CONTROLLER)):
            with pytest.raises((Refused, BadInput)):
                channel.request(head, body)
        assert not counter.done
        channel.request(head, sign_statement("assignment", wish, CONTROLLER))
    assert counter.done == ["assignment"]
    counter.done.clear()
    with contextlib.suppress(NebhError):
        talk(paths["executor"], b"")
