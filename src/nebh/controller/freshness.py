"""Freshness: the timestamp is renewed long before it ends."""

from __future__ import annotations

import asyncio

from nebh.controller.core import Core
from nebh.controller.publishing import renew_timestamp
from nebh.model.errors import NebhError
from nebh.model.event import Severity

RENEW_BEFORE_S = 2 * 86_400
LOOK_S = 900.0


def is_due(core: Core) -> bool:
    """Tell whether the timestamp has less than two of its three days left."""
    if core.trusted is None:
        return False
    return core.trusted.expires["timestamp"] - core.now() // 1000 < RENEW_BEFORE_S


async def keep_fresh(core: Core) -> None:
    """Renew the timestamp whenever it is due, for ever; what goes wrong is an event, tried again later."""
    failed = ""
    while True:
        if is_due(core):
            try:
                await renew_timestamp(core)
                core.wake_nodes()
                failed = ""
            except NebhError as error:
                if error.message != failed:
                    core.report_event("timestamp.failed", Severity.ALARM, error.message, hint=error.hint)
                failed = error.message
        await asyncio.sleep(LOOK_S)
