"""What nodes ask and tell. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.api.happening import LogReply, LogRequest
from nebh.model.api.standing import NodeReport
from nebh.model.event import Event


@dataclass(frozen=True, kw_only=True)
class PollRequest:
    """A node's long poll: what it has. wait: ms."""

    snapshot: int
    seq: int
    order: int
    wait: int = 30_000


@dataclass(frozen=True, kw_only=True)
class NumberedOrder:
    """An order to relay; `order` is the controller's number for it."""

    order: int
    envelope: str


@dataclass(frozen=True, kw_only=True)
class RelayedQuestion:
    """An operator's signed question on its way to the executor."""

    id: int
    envelope: str


@dataclass(frozen=True, kw_only=True)
class RelayedAnswer:
    """The executor's sealed answer (base64) to the question of the same id; error: why there is none."""

    id: int
    box: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class PollAnswer:
    """Signed envelopes to hand to the executor, the snapshot version published now, log requests and questions."""

    assignments: tuple[str, ...]
    orders: tuple[NumberedOrder, ...]
    snapshot: int
    requests: tuple[LogRequest, ...]
    questions: tuple[RelayedQuestion, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NumberedReceipt:
    """A receipt with its number (the executor's)."""

    number: int
    envelope: str


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """What a node has to say. Empty is allowed: the answer then tells where to begin."""

    receipts: tuple[NumberedReceipt, ...] = ()
    events: tuple[Event, ...] = ()
    status: NodeReport | None = None
    logs: tuple[LogReply, ...] = ()
    answers: tuple[RelayedAnswer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportAnswer:
    """Numbers of the newest receipt and event that are stored for this node."""

    receipt: int
    event: int
