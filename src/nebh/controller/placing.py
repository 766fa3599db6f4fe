"""Placing replicas: hands the controller's facts to the scheduler."""

from __future__ import annotations

from nebh.controller.deploying import Choice
from nebh.model.api import NodeReport
from nebh.model.policy import Policy
from nebh.model.trust import TrustedSet
from nebh.planning.schedule import NodeFacts, schedule_service

LOST_MS = 300_000


def schedule(
    trusted: TrustedSet, policy: Policy, wanted: int, seen: dict[str, tuple[int, NodeReport | None]], now: int
) -> Choice:
    """Return where `wanted` replicas of a service go. A node that never spoke is not lost: its agent may be starting."""
    current = {
        node: sum(one.replicas for one in report.running if one.service == policy.service)
        for node, (_, report) in seen.items()
        if report is not None
    }
    nodes = tuple(
        NodeFacts(record=record, lost=0 < seen.get(record.node_id, (0, None))[0] < now - LOST_MS)
        for record in trusted.nodes.nodes
    )
    found = schedule_service(policy, wanted=wanted, nodes=nodes, current=current)
    return Choice(replicas={} if found.unplaced else found.replicas, reasons=found.reasons)
