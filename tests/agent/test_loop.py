"""How long the agent's loops wait after an error."""

from __future__ import annotations

import threading

from nebh.agent.relay import NEAR, Executor, Loop
from nebh.model.errors import Unreachable

TRIES = 12


class Pauses(threading.Event):
    """The word that ends a loop; keeps what the loop wanted to wait, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.wanted.append(timeout or 0.0)
        if len(self.wanted) == TRIES:
            self.set()
        return self.is_set()


def pauses_after(step):
    """Return what a loop around `step` waits, and what it says."""
    pauses, said = Pauses(), []
    Loop("try", step, ended=pauses, say=said.append).run()
    return pauses.wanted, said


def test_an_absent_executor_is_tried_again_soon_however_long_it_is_away(tmp_path):
    executor = Executor(tmp_path / "executor.sock")
    wanted, said = pauses_after(lambda: executor.ask({"op": "poll"}))
    assert max(wanted) <= NEAR
    assert min(wanted) > 0
    assert len(said) == 1
    assert "cannot connect to" in said[0]


def test_an_absent_controller_is_tried_more_and_more_rarely():
    def step():
        raise Unreachable("cannot reach the controller at nowhere")

    wanted, _ = pauses_after(step)
    assert wanted[0] <= 1.0 < max(wanted)
    assert max(wanted[-3:]) > 10
