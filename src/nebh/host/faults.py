"""Fault points: named instants at which a test can end this process for real.

`NEBH_FAULT=transaction.start.after` kills the process with SIGKILL the first time that point is passed, `...:3` the
third time. `NEBH_FAULT_PAUSE=NAME` stops it there with SIGSTOP instead. Without the variables a point costs one look
at an empty dict. `NEBH_FAULT_TRACE=FILE` appends the name of every point that is passed.
"""

from __future__ import annotations

import signal
import threading

_armed: dict[str, int] = {}
_signal = signal.SIGKILL
_trace: str = ""


def arm(environ: dict[str, str]) -> None:
    """Read the variables above; programs call it once when they start."""
    global _signal, _trace
    _armed.clear()
    _trace = environ.get("NEBH_FAULT_TRACE", "")
    for variable, number in (("NEBH_FAULT", signal.SIGKILL), ("NEBH_FAULT_PAUSE", signal.SIGSTOP)):
        for wish in filter(None, environ.get(variable, "").split(",")):
            name, _, count = wish.partition(":")
            _armed[name] = int(count or 1)
            _signal = number


def point(name: str) -> None:
    """Pass the fault point `name`."""
    if _trace:
        with open(_trace, "a", encoding="utf-8") as file:  # noqa: PTH123 - hot only in tests
            file.write(name + "\n")
    if _armed and name in _armed:
        _armed[name] -= 1
        if _armed[name] == 0:
            # To this very thread: a stop that another thread takes lets this one run on for a while.
            signal.pthread_kill(threading.get_ident(), _signal)
