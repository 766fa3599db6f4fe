"""What every ingress driver does. `switch` is the hot path: one write, no file, no process, no log line."""

from __future__ import annotations

from typing import Protocol

from nebh.model.network import IngressPlan, SlotChange, SlotCounters


class IngressDriver(Protocol):
    """Leads public names to instances. Errors are Failed; BadInput for a port that is taken (naming who has it)."""

    def ensure(self, plan: IngressPlan) -> None:
        """Have the proxy running with `plan`, adopting one that an earlier process started and bringing its live slots
        to what the plan says. Reloads only for what the runtime API cannot do."""
        ...

    def configure(self, plan: IngressPlan) -> None:
        """In prepare: make routes and slots of `plan` known (a slot new in it comes up in maint), and write the file
        that a cold start reads. The states of live slots stay as they are. May take some seconds where listeners or
        certificates change; a certificate that cannot be read is BadInput."""
        ...

    def switch(self, changes: tuple[SlotChange, ...]) -> None:
        """Set slots in one batch: after it returns no request is dispatched to a slot set to drain or maint."""
        ...

    def record(self, plan: IngressPlan) -> None:
        """After a switch: write the file that a cold start reads; touches no live state."""
        ...

    def counters(self, backend: str) -> dict[int, SlotCounters]:
        """Return the proxy's numbers by slot."""
        ...

    def exposed(self) -> tuple[int, ...]:
        """Return the TCP ports the proxy listens on."""
        ...

    def watch(self) -> int:
        """Return a file descriptor that becomes readable when the proxy ends, -1 when it does not run. The caller
        closes it."""
        ...

    def stop(self) -> None:
        """End the proxy."""
        ...
