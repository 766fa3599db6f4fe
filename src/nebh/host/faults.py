"""Fault points: named instants at which a test can end this process for real.

`NEBH_FAULT=transaction.start.after` kills the process with SIGKILL the first time that point is passed, `...:3` the
third time. `NEBH_FAULT_PAUSE=NAME` stops it there with SIGSTOP instead. Without the variables a point costs one look
at an empty dict. `NEBH_FAULT_TRACE=FILE` appends the name of every point that is passed. `NEBH_FAULT_ASK=FILE` arms
a process that runs: once FILE holds a name, the first to pass that point takes FILE away and stops with SIGSTOP.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

_armed: dict[str, int] = {}
_signal = signal.SIGKILL
_trace: str = ""
_ask: str = ""


def arm(environ: dict[str, str]) -> None:
    """Read the variables above; programs call it once when they start."""
    global _signal, _trace, _ask
    _armed.clear()
    _trace = environ.get("NEBH_FAULT_TRACE", "")
    _ask = environ.get("NEBH_FAULT_ASK", "")
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
    if _ask:
        _stop_if_asked(name)
    if _armed and name in _armed:
        _armed[name] -= 1
        if _armed[name] == 0:
            # To this very thread: a stop that another thread takes lets this one run on for a while.
            signal.pthread_kill(threading.get_ident(), _signal)


def _stop_if_asked(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        with open(_ask, encoding="utf-8") as file:  # noqa: PTH123 - as above
            asked = file.read()
        if asked == name:
            os.unlink(_ask)  # noqa: PTH108 - of two threads that come here one gets it
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
