"""An ingress that only remembers: for tests of what stands above."""

from __future__ import annotations

import os
from dataclasses import replace

from nebh.drivers.ingress.config import check_routes, ports_of, with_live_states
from nebh.model.errors import BadInput, Failed
from nebh.model.network import IngressPlan, Slot, SlotChange, SlotCounters


class FakeIngress:
    """Keeps slots by (backend, number). taken: ports that somebody else has, by port. counts: what `counters` says.
    looks: how often `counters` was asked."""

    def __init__(self, *, taken: dict[int, str] | None = None) -> None:
        self.taken = taken or {}
        self.looks = 0
        self.counts: dict[tuple[str, int], SlotCounters] = {}
        self.slots: dict[tuple[str, int], Slot] = {}
        self.recorded: IngressPlan | None = None
        self.switches: list[tuple[SlotChange, ...]] = []
        self.running = False
        self._bells: list[int] = []

    def ensure(self, plan: IngressPlan) -> None:
        """Take the plan as it is."""
        self._admit(plan)
        self.slots = {(backend.key, slot.number): slot for backend in plan.backends for slot in backend.slots}
        self.recorded = plan
        self.running = True

    def configure(self, plan: IngressPlan) -> None:
        """Take new slots in maint; leave live ones."""
        self._must_run()
        self._admit(plan)
        self.recorded = with_live_states(plan, self.slots)
        self.slots = {(backend.key, slot.number): slot for backend in self.recorded.backends for slot in backend.slots}

    def switch(self, changes: tuple[SlotChange, ...]) -> None:
        """Set the slots."""
        self._must_run()
        for change in changes:
            if (change.backend, change.number) not in self.slots:
                raise Failed(f"cannot switch {change.backend}: slot {change.number} is not configured")
        for change in changes:
            key = (change.backend, change.number)
            self.slots[key] = replace(self.slots[key], state=change.state)
        self.switches.append(changes)

    def record(self, plan: IngressPlan) -> None:
        """Remember the plan."""
        self.recorded = plan

    def counters(self, backend: str) -> dict[int, SlotCounters]:
        """Return what the test said, else zeros."""
        self.looks += 1
        self._must_run()
        zero = SlotCounters(current=0, queued=0, total=0, errors=0, average_ms=0)
        return {number: self.counts.get((key, number), zero) for key, number in self.slots if key == backend}

    def exposed(self) -> tuple[int, ...]:
        """Return the ports of the plan."""
        return ports_of(self.recorded) if self.recorded and self.running else ()

    def watch(self) -> int:
        """Return a descriptor that `kill` and `stop` make readable."""
        if not self.running:
            return -1
        bell = os.eventfd(0)
        self._bells.append(os.dup(bell))
        return bell

    def kill(self) -> None:
        """End it as somebody else might."""
        self.running = False
        while self._bells:
            bell = self._bells.pop()
            os.eventfd_write(bell, 1)
            os.close(bell)

    def stop(self) -> None:
        """Forget that it runs."""
        self.kill()

    def _must_run(self) -> None:
        if not self.running:
            raise Failed("cannot use the proxy: it does not run", hint="call ensure first")

    def _admit(self, plan: IngressPlan) -> None:
        check_routes(plan)
        for port in ports_of(plan):
            if port in self.taken:
                raise BadInput(f"cannot listen on TCP port {port}: {self.taken[port]} has it")
