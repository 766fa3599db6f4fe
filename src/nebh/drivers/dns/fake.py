"""A resolver in memory, which can fail."""

from __future__ import annotations

from nebh.model.errors import Broken, Failed
from nebh.model.network import DnsRecords


class FakeDns:
    """See DnsDriver. fail: verbs (`ensure`, `apply`, `stop`) that raise Failed and change nothing; lie: verbs that
    report success and change nothing."""

    def __init__(self) -> None:
        self.fail: set[str] = set()
        self.lie: set[str] = set()
        self.running = False
        self.records = DnsRecords()

    def ensure(self, subnets: tuple[str, ...]) -> None:  # noqa: ARG002 - the promise of the driver
        """Run."""
        if self._goes("ensure"):
            self.running = True

    def apply(self, records: DnsRecords) -> None:
        """Keep `records`."""
        if not self.running:
            raise Broken("cannot change DNS records: the resolver was not ensured")
        if self._goes("apply"):
            self.records = records

    def stop(self) -> None:
        """Run no more."""
        if self._goes("stop"):
            self.running = False

    def answer(self, service: str) -> tuple[str, ...]:
        """Return all addresses of a service, sorted; () for none or while it does not run."""
        pairs = self.records.services.get(service, ()) if self.running else ()
        return tuple(sorted(address for pair in pairs for address in (pair.v4, pair.v6)))

    def _goes(self, verb: str) -> bool:
        if verb in self.fail:
            raise Failed(f"cannot {verb} the resolver: told to fail")
        return verb not in self.lie
