"""Public names and ports: each belongs to one service, decided when signing and again on the node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nebh.model.policy import Policy


@dataclass(frozen=True, kw_only=True)
class ClaimConflict:
    """`claim` (such as `www.example.org/` or `tcp port 5432`) stands in the policies of all these services."""

    claim: str
    services: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.claim} is claimed by {' and '.join(self.services)}"


def claims_of(policy: Policy) -> tuple[str, ...]:
    """Return what a policy claims, in words."""
    return tuple(
        f"tcp port {route.tcp_port}" if route.tcp_port else f"{route.host or '(any host)'}{route.path}"
        for route in policy.net.routes
    )


def claims_conflict(policies: Iterable[Policy]) -> tuple[ClaimConflict, ...]:
    """Return every claim of more than one service, sorted. A stopped service keeps its names."""
    owners: dict[str, set[str]] = {}
    for policy in policies:
        for claim in claims_of(policy):
            owners.setdefault(claim, set()).add(policy.service)
    return tuple(
        ClaimConflict(claim=claim, services=tuple(sorted(services)))
        for claim, services in sorted(owners.items())
        if len(services) > 1
    )
