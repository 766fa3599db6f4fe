"""Tests whose mounts nobody else gets a copy of: what other processes hold of a file system keeps it in use."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from nebh.host.namespaces import private_mounts


def apart(test: Callable[..., None]) -> Callable[..., None]:
    """Have a test's body run in a forked process with mounts of its own. Its fixtures stay here."""

    @functools.wraps(test)
    def wrapped(*words: Any, **named: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                private_mounts()
                test(*words, **named)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 0, f"it ended with {status} in a process of its own: see what it printed"

    return wrapped
