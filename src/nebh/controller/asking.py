"""Operators' questions to nodes: carried both ways, read in neither."""

from __future__ import annotations

import asyncio
import base64

from nebh.controller.core import Core
from nebh.controller.entering import decode_envelope
from nebh.model.api import RelayedQuestion, Sealed
from nebh.model.errors import BadInput, Failed, NotFound, Refused, Unreachable
from nebh.model.question import Question
from nebh.signing.statements import verify_statement

ANSWER_WAIT = 20.0


async def relay_question(core: Core, envelope: str) -> Sealed:
    """Hand an operator's signed question to the node that it names and return the sealed answer. Raises Refused,
    NotFound, Unreachable, Failed."""
    trusted = core.standing()
    try:
        data = decode_envelope(envelope)
        asked = verify_statement(
            data, "question", Question, keys=trusted.operator_keys, cluster_id=trusted.nodes.cluster_id
        )
    except BadInput as error:
        raise Refused(f"cannot relay this question: {error.message}", rule="order.signer", alarm=False) from error
    if core.active_node(asked.node_id) is None:
        raise NotFound(f"cannot ask node {asked.node_id[:16]!r}: there is no such node")
    desk = core.logs
    desk.number += 1
    key = (asked.node_id, desk.number)
    question = RelayedQuestion(id=desk.number, envelope=base64.b64encode(data).decode())
    desk.questions[asked.node_id].append(question)
    desk.boxes[key] = future = asyncio.get_running_loop().create_future()
    core.node_bell(asked.node_id).ring()
    name = core.node_name(asked.node_id)
    try:
        async with asyncio.timeout(ANSWER_WAIT):
            answer = await future
    except (TimeoutError, asyncio.CancelledError):
        raise Unreachable(f"cannot ask {name}: it did not answer", hint="is its agent up?") from None
    finally:
        del desk.boxes[key]
    if answer.error:
        raise Failed(f"cannot ask {name}: {answer.error}")
    return Sealed(box=answer.box)
