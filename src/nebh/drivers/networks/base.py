"""What every network driver does: routed veths, one nftables table of ours, nothing of anybody else's."""

from __future__ import annotations

from typing import Protocol

from nebh.model.network import LinkPlan, NetworkRules


class NetworkDriver(Protocol):
    """All verbs may be repeated. Errors are Failed with what `ip` or `nft` said."""

    def ensure(self, subnets: tuple[str, ...]) -> None:
        """Make what all links share: forwarding, the resolver's addresses, the table."""
        ...

    def attach(self, link: LinkPlan) -> str:
        """Make a network namespace joined to the host by `link` (an old link of that name goes first) and return a
        path that names it, valid until `hand_over` or the driver's end."""
        ...

    def hand_over(self, link_name: str) -> None:
        """Forget the namespace: from now on the container that was created in it keeps it alive."""
        ...

    def detach(self, link_name: str) -> None:
        """Remove a link; an absent one is fine."""
        ...

    def links(self) -> tuple[str, ...]:
        """Return the names of our links on the host (the shared ones excepted)."""
        ...

    def reach(self, address: str, port: int) -> str:
        """Tell whether a port of an instance accepts connections: `ok`, `refused` or `silent` (for 0.3 s)."""
        ...

    def apply(self, rules: NetworkRules) -> None:
        """Replace the whole table in one transaction."""
        ...

    def swap(self, rules: NetworkRules) -> None:
        """As `apply`, but change only what differs from the rules applied last: for the instant of a cut-over.
        Connections that run are left where they are by both."""
        ...

    def repair(self) -> bool:
        """Put back what somebody took away from the rules applied last; tell whether that was needed. Cheap: call it
        every few seconds, for without our table nothing is refused."""
        ...

    def remove(self) -> None:
        """Take away everything `ensure` and `apply` made."""
        ...
