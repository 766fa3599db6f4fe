"""What every DNS driver does."""

from __future__ import annotations

from typing import Protocol

from nebh.model.network import DnsRecords


class DnsDriver(Protocol):
    """Answers `<service>.nebh.internal` on the node's resolver address, and public names on the second one."""

    def ensure(self, subnets: tuple[str, ...]) -> None:
        """Have the resolver running, adopting one that an earlier process started."""
        ...

    def apply(self, records: DnsRecords) -> None:
        """Answer exactly `records` from now on."""
        ...

    def stop(self) -> None:
        """End the resolver."""
        ...
