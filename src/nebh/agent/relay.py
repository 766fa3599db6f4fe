"""Two loops: down (controller -> executor: assignments, orders, hints) and up (executor -> controller: receipts,
events, status). Whoever is away is tried again with jitter; what was not acknowledged is sent again."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebh.agent.sources import ControllerSource
from nebh.agent.transport_key import TransportIdentity
from nebh.client.frame_channel import FrameChannel, connect_frames
from nebh.host.files import read_bounded, write_atomic
from nebh.model import api
from nebh.model.errors import NebhError, Refused, Unreachable
from nebh.model.event import Event
from nebh.model.statement import Assignment
from nebh.wire import codec, dsse

WAIT_MS = 25_000
CALM = 5.0
LONGEST = 30.0
NEAR = 0.25  # a socket on this machine costs nothing to try


class ExecutorAway(Unreachable):
    """The executor does not listen: it starts, or starts anew."""


@dataclass(frozen=True, kw_only=True)
class News:
    """What the executor answers to `poll`: (number, envelope in base64) of receipts, events, status."""

    receipts: tuple[tuple[int, str], ...]
    events: tuple[Event, ...]
    status: api.NodeReport


class Loop(threading.Thread):
    """A thread that does `step` again and again; after an error it waits, longer each time, with jitter; while the
    executor is away, always briefly: what happened on the node is known as soon as it is back."""

    def __init__(
        self, name: str, step: Callable[[], None], *, ended: threading.Event, say: Callable[[str], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._step, self._ended, self._say = step, ended, say

    def run(self) -> None:
        """Go on until `ended` is set."""
        pause, said = 0.0, ""
        while not self._ended.is_set():
            try:
                self._step()
                pause, said = 0.0, ""
            except NebhError as error:
                if error.message != said:
                    self._say(error.message)
                said = error.message
                if isinstance(error, ExecutorAway):
                    self._ended.wait(random.uniform(NEAR / 2, NEAR))
                    continue
                pause = min(LONGEST, max(CALM, pause * 2)) if pause else 1.0
                self._ended.wait(random.uniform(pause / 2, pause))


class Executor:
    """A connection to the executor, made again when it was lost. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel: FrameChannel | None = None

    def ask(self, head: dict[str, Any], body: bytes = b"", *, timeout: float = 30.0) -> dict[str, Any]:
        """Return the head of the answer. Raises what it answered, ExecutorAway, or Unreachable."""
        channel = self._channel or self._connect()
        self._channel = None
        try:
            answer, _ = channel.request(head, body, timeout=timeout)
        except BaseException:
            channel.close()
            raise
        self._channel = channel
        return answer

    def _connect(self) -> FrameChannel:
        try:
            return connect_frames(self._path)
        except Unreachable as error:
            raise ExecutorAway(error.message, hint=error.hint) from error


class Up:
    """Executor -> controller. Numbers begin at what the controller says it has stored."""

    def __init__(self, executor: Path, source: ControllerSource, identity: TransportIdentity) -> None:
        self._executor, self._source, self._identity = Executor(executor), source, identity
        self._stored: api.ReportAnswer | None = None
        self._status: api.NodeReport | None = None
        self.seq = 0

    def step(self) -> None:
        """Wait for news and hand it on."""
        if self._stored is None:
            self._stored = self._report(api.ReportRequest())
        news = self._news(self._stored)
        self.seq = max(self.seq, news.status.seq)
        if news.receipts or news.events or news.status != self._status:
            request = api.ReportRequest(
                receipts=tuple(api.NumberedReceipt(number=number, envelope=text) for number, text in news.receipts),
                events=news.events,
                status=news.status,
            )
            self._report(request)
            self._status = news.status
            # What was taken is done with, stored or dropped: a receipt that is refused must not stop the others.
            self._stored = api.ReportAnswer(
                receipt=max([self._stored.receipt, *(number for number, _ in news.receipts)]),
                event=max([self._stored.event, *(event.number for event in news.events)]),
            )

    def _news(self, stored: api.ReportAnswer) -> News:
        # The first question is answered at once, so that the controller learns the status early.
        wait = WAIT_MS if self._status is not None else 0
        head = {"op": "poll", "receipt": stored.receipt, "event": stored.event, "wait_ms": wait}
        answer = self._executor.ask(head, timeout=wait / 1000 + 30)
        return codec.from_plain(answer, News, what="the executor's news")

    def _report(self, request: api.ReportRequest) -> api.ReportAnswer:
        try:
            with self._source.client() as client:
                return client.report(request)
        except NebhError as error:
            if isinstance(error, Refused):
                self._identity.forget()
                self._source.drop()
            raise


class Down:
    """Controller -> executor."""

    def __init__(self, executor: Path, source: ControllerSource, up: Up, *, state: Path) -> None:
        self._executor, self._source, self._up, self._place = Executor(executor), source, up, executor
        self._cursor = state / "orders"
        self._snapshot = self._seq = 0
        self._order = self._read_cursor()

    def step(self) -> None:
        """Wait for what the controller has and hand it on, oldest first."""
        if not self._up.seq and not self._seq:
            # What the executor took before this agent began is not offered again.
            status = self._executor.ask({"op": "poll", "receipt": 2**52, "event": 2**52, "wait_ms": 0}).get(
                "status", {}
            )
            self._seq = int(status.get("seq", 0)) if isinstance(status, dict) else 0
        have = api.PollRequest(
            snapshot=self._snapshot, seq=max(self._seq, self._up.seq), order=self._order, wait=WAIT_MS
        )
        with self._source.client() as client:
            answer = client.poll(have)
        if answer.snapshot != self._snapshot:
            self._executor.ask({"op": "submit", "kind": "hint", "source": "controller"})
            self._snapshot = answer.snapshot
        for text in answer.assignments:
            self._submit("assignment", text)
            self._seq = max(self._seq, peek_seq(text))
        for order in answer.orders:
            self._submit("order", order.envelope)
            self._order = order.order
            write_atomic(self._cursor, str(order.order).encode(), durable=False)
        if answer.requests:
            self._answer_logs(answer.requests)
        if answer.questions:  # a look at many files takes seconds: orders do not wait for it
            threading.Thread(target=self._answer_questions, args=(answer.questions,), daemon=True).start()

    def _submit(self, kind: str, envelope: str) -> None:
        """Hand a statement on. What the executor refuses, it says in a receipt of its own."""
        data = codec.from_plain(envelope, bytes, what="an envelope")
        try:
            self._executor.ask({"op": "submit", "kind": kind, "source": "controller"}, data)
        except NebhError as error:
            if isinstance(error, Unreachable):
                raise

    def _answer_questions(self, questions: tuple[api.RelayedQuestion, ...]) -> None:
        executor = Executor(self._place)
        answers = tuple(_ask(executor, one) for one in questions)
        with contextlib.suppress(NebhError), self._source.client() as client:  # whoever asked gives up by then
            client.report(api.ReportRequest(answers=answers))

    def _answer_logs(self, requests: tuple[api.LogRequest, ...]) -> None:
        replies = tuple(self._read_logs(request) for request in requests)
        with self._source.client() as client:
            client.report(api.ReportRequest(logs=replies))

    def _read_logs(self, request: api.LogRequest) -> api.LogReply:
        head = {
            "op": "logs",
            "service": request.service,
            "instance": request.instance,
            "cursors": request.cursors,
            "limit": request.limit,
            "tail": request.tail,
        }
        try:
            answer = self._executor.ask(head)
            lines = tuple(
                api.LogLine(instance=str(one[0]), time=str(one[1]), stream=str(one[2]), text=str(one[3]))
                for one in answer.get("lines", [])
            )
            cursors = {str(name): str(value) for name, value in answer.get("cursors", {}).items()}
            return api.LogReply(id=request.id, lines=lines, cursors=cursors, lost=bool(answer.get("lost")))
        except NebhError as error:
            return api.LogReply(id=request.id, error=error.message)

    def _read_cursor(self) -> int:
        try:
            return int(read_bounded(self._cursor, limit=64))
        except (OSError, ValueError):
            return 0


def _ask(executor: Executor, question: api.RelayedQuestion) -> api.RelayedAnswer:
    try:
        data = codec.from_plain(question.envelope, bytes, what="an envelope")
        box = executor.ask({"op": "question"}, data).get("box", "")
        return api.RelayedAnswer(id=question.id, box=str(box))
    except NebhError as error:
        return api.RelayedAnswer(id=question.id, error=error.message)


def peek_seq(envelope: str) -> int:
    """Return the number inside an assignment, not verified: it only says what to ask for next. Raises BadInput."""
    data = codec.from_plain(envelope, bytes, what="an envelope")
    _, payload, _ = dsse.unwrap(data)
    return codec.decode(payload, Assignment, what="an assignment", limit=dsse.LIMIT).seq
