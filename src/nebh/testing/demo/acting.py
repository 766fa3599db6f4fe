"""One act after the other: what each leaves in the record, and how Ctrl-C ends all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

from nebh.model.errors import NebhError
from nebh.testing.demo.machine import Watch
from nebh.testing.demo.record import Act
from nebh.testing.demo.stage import Stage

INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SomeStage = TypeVar("SomeStage", bound=Stage)


def play_act(stage: SomeStage, act: Act, play: Callable[[SomeStage], None]) -> bool:
    """Play an act; tell whether the next may begin."""
    stage.act = act
    begin = time.monotonic()
    watch = Watch()
    try:
        with watch:
            play(stage)
        stage.judge()
    except (NebhError, TimeoutError) as error:
        stage.expect(False, str(error))
    finally:
        act.facts |= {"act_seconds": round(time.monotonic() - begin, 3), "machine": watch.facts()}
        logs = stage.keep_logs()
    if not act.ok:
        machine = act.facts["machine"]
        stage.story.say(
            f"  the machine: nothing ran for up to {machine['longest_standstill_ms']} ms, others took "
            f"{machine['stolen_percent']} % of the processors"
        )
        stage.story.say(f"  act {act.name} is not ok; the cloud's logs are in {logs}")
    return act.ended


def unwind_on_signals() -> None:
    """Have a signal that ends programs raise KeyboardInterrupt here, and end the commands under way first."""
    for number in ENDING:
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the commands under way, which other threads wait for, and unwind."""
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in path.read_text(encoding="ascii").split():
                os.kill(int(pid), signal.SIGINT)
    raise KeyboardInterrupt


def stop_listening() -> None:
    """Have a second Ctrl-C not leave half of a cloud."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
