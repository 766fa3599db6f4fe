"""Operations for nodes: what waits for them, what they have to say."""

from __future__ import annotations

from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from nebh.api.access import allow
from nebh.controller import relaying
from nebh.controller.core import Core
from nebh.controller.identity import Caller
from nebh.model.api import PollAnswer, PollRequest, ReportAnswer, ReportRequest, Who

NODE = allow(Who.NODE, fails=(404,))


@post("/v1/node/poll", opt=NODE, status_code=200)
async def poll(core: NamedDependency[Core], caller: NamedDependency[Caller], data: JSONBody[PollRequest]) -> PollAnswer:
    """Long poll: assignments, orders and log requests for this node, and the snapshot version published now."""
    return await relaying.answer_poll(core, data, caller=caller)


@post("/v1/node/report", opt=NODE, status_code=200, sync_to_thread=False)
def report(core: NamedDependency[Core], caller: NamedDependency[Caller], data: JSONBody[ReportRequest]) -> ReportAnswer:
    """Receipts, events, status and log lines of this node; answers with the newest numbers that are stored."""
    return relaying.take_report(core, data, caller=caller)


HANDLERS = (poll, report)
