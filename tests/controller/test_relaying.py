"""What waits for a node is handed to it once, and not lost in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nebh.controller import relaying
from nebh.controller.core import Core
from nebh.controller.identity import Caller
from nebh.model.api import LogRequest, PollRequest, Who
from nebh.signing.statements import Seed
from nebh.state.migrate import migrate

ASKED = LogRequest(id=7, service="web", instance="", cursors={}, limit=1)


def test_a_request_that_comes_as_a_poll_ends_is_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(tmp_path / "controller.db")
    core = Core(state=tmp_path, signer=Seed(b"c" * 32), tools=None, now=lambda: 0, version="test")  # type: ignore[arg-type]
    late = [ASKED]

    async def ends_without_looking_again(bell: object, seconds: float, look: Callable[[], bool]) -> None:
        look()
        core.logs.waiting["1"] += late
        late.clear()

    monkeypatch.setattr(relaying, "poll", ends_without_looking_again)
    monkeypatch.setattr(relaying, "_heard", lambda core, caller: None)
    caller = Caller(kind=Who.NODE, name="one", key="", node_id="1")
    handed = [
        asyncio.run(relaying.answer_poll(core, PollRequest(snapshot=0, seq=0, order=0, wait=0), caller=caller)).requests
        for _ in range(3)
    ]
    core.close()
    core.database.close()
    assert handed == [(), (ASKED,), ()]
