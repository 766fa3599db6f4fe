"""The nodes' side: what waits for a node, and what a node has to say."""

from __future__ import annotations

import base64
from dataclasses import replace

from sqlalchemy import Connection

from nebh.controller.core import Core, poll
from nebh.controller.entering import decode_envelope
from nebh.controller.identity import Caller, Unidentified
from nebh.model.api import NumberedOrder, NumberedReceipt, PollAnswer, PollRequest, ReportAnswer, ReportRequest
from nebh.model.errors import BadInput, Refused
from nebh.model.event import Severity
from nebh.model.node import NodeRecord
from nebh.model.statement import Receipt
from nebh.signing.statements import verify_statement
from nebh.state.deployments import prune_assignments, record_outcome, waiting_assignments
from nebh.state.events import add_event, newest_event, prune_events
from nebh.state.nodes import record_node
from nebh.state.orders import waiting_orders
from nebh.state.receipts import add_receipt, newest_receipt, prune_receipts
from nebh.wire.codec import MAX_INTEGER

MAX_WAIT_MS = 60_000
KEPT_RECEIPTS = 50_000
KEPT_EVENTS = 100_000
KEPT_ASSIGNMENTS_MS = 30 * 86_400_000


async def answer_poll(core: Core, request: PollRequest, *, caller: Caller) -> PollAnswer:
    """Answer as soon as something waits for the node, at the latest after `request.wait` ms. Raises BadInput,
    Unidentified."""
    if not 0 <= request.wait <= MAX_WAIT_MS:
        raise BadInput(f"cannot wait for {request.wait} ms: 0 to {MAX_WAIT_MS} are allowed")
    _check_numbers(request.seq, request.order)
    _heard(core, caller)
    found: list[PollAnswer] = []

    def look() -> bool:
        found[:] = [_waiting(core, request, node_id=caller.node_id)]
        one = found[0]
        said = one.assignments or one.orders or one.requests or one.questions
        return bool(said or one.snapshot != request.snapshot)

    await poll(core.node_bell(caller.node_id), request.wait / 1000, look)
    # What came after the last look is left for the next poll: it is not in this answer.
    handed = {one.id for one in found[0].requests}
    waiting = core.logs.waiting.pop(caller.node_id, [])
    if left := [one for one in waiting if one.id not in handed]:
        core.logs.waiting[caller.node_id] = left
    asked = {one.id for one in found[0].questions}
    questions = core.logs.questions.pop(caller.node_id, [])
    if later := [one for one in questions if one.id not in asked]:
        core.logs.questions[caller.node_id] = later
    return found[0]


def _check_numbers(*numbers: int) -> None:
    if not all(0 <= number < MAX_INTEGER for number in numbers):
        raise BadInput("cannot read the request: a number is negative or too large")


def _heard(core: Core, caller: Caller) -> None:
    if core.active_node(caller.node_id) is None:
        raise Unidentified("cannot answer this node: it was revoked", again=False)
    with core.database.begin() as connection:
        record_node(connection, node_id=caller.node_id, report=None, at=core.now())


def _waiting(core: Core, request: PollRequest, *, node_id: str) -> PollAnswer:
    with core.database.begin() as connection:
        assignments = waiting_assignments(connection, node_id=node_id, after=request.seq)
        orders = waiting_orders(connection, node_id=node_id, after=request.order, now=core.now())
    return PollAnswer(
        assignments=tuple(base64.b64encode(one.envelope).decode() for one in assignments[:64]),
        orders=tuple(
            NumberedOrder(order=number, envelope=base64.b64encode(envelope).decode())
            for number, envelope in orders[:64]
        ),
        snapshot=core.snapshot,
        requests=tuple(core.logs.waiting.get(node_id, ())),
        questions=tuple(core.logs.questions.get(node_id, ())),
    )


def take_report(core: Core, request: ReportRequest, *, caller: Caller) -> ReportAnswer:
    """Store what a node reports; answers with the newest numbers stored. A receipt that is not this node's own is
    dropped with an alarm. Raises BadInput, Unidentified."""
    _check_numbers(*(number for event in request.events for number in (event.number, event.at)))
    node = core.active_node(caller.node_id)
    if node is None:
        raise Unidentified("cannot take this report: the node was revoked", again=False)
    read = _read_receipts(core, request, node)
    now = core.now()
    with core.database.begin() as connection:
        record_node(connection, node_id=node.node_id, report=request.status, at=now)
        for one, envelope, receipt in read:
            new = add_receipt(
                connection, node_id=node.node_id, number=one.number, nonce=receipt.nonce, envelope=envelope, at=now
            )
            if new and receipt.nonce:
                record_outcome(connection, node_id=node.node_id, nonce=receipt.nonce, outcome=receipt.outcome, at=now)
        for event in request.events:
            add_event(connection, node_id=node.node_id, event=replace(event, source=node.name))
        _prune(connection, read, now)
        answer = ReportAnswer(
            receipt=newest_receipt(connection, node_id=node.node_id),
            event=newest_event(connection, node_id=node.node_id),
        )
    _ring(core, request, node_id=node.node_id)
    return answer


def _read_receipts(
    core: Core, request: ReportRequest, node: NodeRecord
) -> list[tuple[NumberedReceipt, bytes, Receipt]]:
    cluster_id, read = core.standing().nodes.cluster_id, []
    for one in request.receipts:
        try:
            data = decode_envelope(one.envelope)
            receipt = verify_statement(data, "receipt", Receipt, keys=(node.sign_pk,), cluster_id=cluster_id)
            if receipt.node_id != node.node_id or receipt.number != one.number:
                raise BadInput("it names another node or number")
            read.append((one, data, receipt))
        except (BadInput, Refused) as error:
            message = f"a receipt that {node.name} posted was dropped: {error.message}"
            core.report_event("receipt.dropped", Severity.ALARM, message, hint="was the node's key replaced?")
    return read


def _prune(connection: Connection, read: list[tuple[NumberedReceipt, bytes, Receipt]], now: int) -> None:
    if any(one.number % 256 == 0 for one, _, _ in read):
        prune_receipts(connection, keep=KEPT_RECEIPTS)
        prune_events(connection, keep=KEPT_EVENTS)
        prune_assignments(connection, keep_after=now - KEPT_ASSIGNMENTS_MS)


def _ring(core: Core, request: ReportRequest, *, node_id: str) -> None:
    if request.receipts:
        core.receipts.ring()
    if request.events:
        core.events.ring()
    for reply in request.logs:
        future = core.logs.answers.get((node_id, reply.id))
        if future is not None and not future.done():
            future.set_result(reply)
    for answer in request.answers:
        waiting = core.logs.boxes.get((node_id, answer.id))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
