"""A release on trial: the way back lies ready, and whoever wants it goes it at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from nebh.executor.back import compute_way_back, leave, runs, swing_back
from nebh.executor.data import stands_alone
from nebh.executor.run import Run
from nebh.executor.switchover import Switch
from nebh.host import marks
from nebh.model.errors import NebhError
from nebh.model.transaction import State
from nebh.model.work import TransactionRow


class Trial:
    """CHECKING of one transaction. Its own thread watches and ends it; a command, in another thread, may turn it back
    first. Going back is journalled after the switch, in one commit: until then the journal says CHECKING, and an executor
    that died in between has swung back to the release on trial, whose checks begin again.

    Locks in this order: the trial's, the dataplane's, the journal's. Nobody calls with the journal's held.
    """

    def __init__(self, run: Run, row: TransactionRow) -> None:
        self._run = run
        self._row = row
        self._new, self._old = run.sides(row)
        self._slow = row.live or stands_alone(run.context, row)
        self._turn = threading.Lock()
        self._left: TransactionRow | None = None
        self._seen: tuple[int, Switch | None] = (-1, None)  # one value: two threads look
        self._went: Switch | None = None

    def look(self) -> Switch | None:
        """Return the way back, computed again if the journal is not as it was. There is none while an old instance does
        not run: then ROLLING_BACK is journalled, and it is revived first. Nor is there one where data or files must go back too."""
        if self._slow:
            return None
        changes = self._run.context.database.changes
        seen, way = self._seen
        if seen == changes:
            return way
        way = None
        with contextlib.suppress(NebhError, OSError):
            if all(runs(self._run, one) for one in self._old):
                way = compute_way_back(self._run, self._row, new=self._new, old=self._old)
        self._seen = (changes, way)
        return way

    def turn_back(self, reason: str, also: Callable[[], None] | None = None) -> bool:
        """Go back now, whatever the trial's thread is busy with; False when the trial is over or there is no way that
        lies ready. also: journalled in the same commit. Raises NebhError, OSError: `give_up` was called before."""
        run = self._run
        with self._turn:
            if self._left is not None:
                return False
            with run.dataplane.lock:  # from the look at the journal to its next commit nobody else changes rules
                marks.mark("back.begin")
                self._went = self.look()
                if self._went is None:
                    return False
                run.give_up(reason)  # even if the journal cannot be written: there is no way forward any more
                self._left = swing_back(run, self._row, self._went, reason=reason, via=State.ROLLING_BACK, also=also)
        return True

    def end(self, state: State, reason: str = "") -> TransactionRow:
        """Journal how the trial ends, unless it was turned back meanwhile; return the row as it is now."""
        with self._turn:
            if self._left is None:
                self._left = self._run.move(self._row, state, reason=reason)
            return self._left

    def fail(self, reason: str) -> TransactionRow:
        """End the trial for `reason`: at once, or by way of ROLLING_BACK, which is tried until it works."""
        with contextlib.suppress(NebhError, OSError):
            self.turn_back(reason)
        return self.end(State.ROLLING_BACK, reason)

    def clear_up(self, ended: TransactionRow) -> None:
        """What follows a trial that was turned back."""
        if ended.state is State.ROLLED_BACK and self._went is not None:
            leave(self._run, ended, new=self._new, routes_before=self._went.policy.net)
