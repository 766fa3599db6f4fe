"""A network in memory, which can fail or lie."""

from __future__ import annotations

from nebh.drivers.networks import nft_rules
from nebh.model.errors import Broken, Failed
from nebh.model.network import LinkPlan, NetworkRules


class FakeNetwork:
    """See NetworkDriver. fail: verbs that raise Failed and change nothing; lie: verbs that report success and change
    nothing. rules: those that stand, None without any."""

    def __init__(self) -> None:
        self.fail: set[str] = set()
        self.lie: set[str] = set()
        self.ensured = False
        self.rules: NetworkRules | None = None
        self.attached: dict[str, LinkPlan] = {}
        self.held: set[str] = set()

    def ensure(self, subnets: tuple[str, ...]) -> None:
        """Be there."""
        if self._goes("ensure"):
            self.ensured = True
            self.rules = self.rules or NetworkRules(subnets=subnets)

    def attach(self, link: LinkPlan) -> str:
        """Remember the link; the path is that of no namespace."""
        if not self.ensured:
            raise Broken(f"cannot attach {link.name}: the network was not ensured")
        if self._goes("attach"):
            self.attached[link.name] = link
            self.held.add(link.name)
        return f"/proc/0/fd/{link.name}"

    def hand_over(self, link_name: str) -> None:
        """Forget the namespace."""
        if self._goes("hand_over"):
            self.held.discard(link_name)

    def detach(self, link_name: str) -> None:
        """Forget the link."""
        if self._goes("detach"):
            self.held.discard(link_name)
            self.attached.pop(link_name, None)

    def links(self) -> tuple[str, ...]:
        """Return the names of the links."""
        self._goes("links")
        return tuple(sorted(self.attached))

    def reach(self, address: str, port: int) -> str:  # noqa: ARG002 - the contract's names
        """Say that everything listens, unless told to fail."""
        return "ok" if self._goes("reach") else "refused"

    def apply(self, rules: NetworkRules) -> None:
        """Keep `rules`."""
        nft_rules.build_table(rules)  # refuses what the real one refuses
        if self._goes("apply"):
            self.rules = rules

    def swap(self, rules: NetworkRules) -> None:
        """Keep `rules`."""
        nft_rules.build_table(rules)
        if self._goes("swap"):
            self.rules = rules

    def repair(self) -> bool:
        """Say that nothing was missing."""
        return not self._goes("repair")

    def remove(self) -> None:
        """Be gone, links excepted."""
        if self._goes("remove"):
            self.ensured, self.rules = False, None

    def _goes(self, verb: str) -> bool:
        if verb in self.fail:
            raise Failed(f"cannot {verb} the network: told to fail")
        return verb not in self.lie
