"""Placing replicas: hands the controller's facts to the scheduler."""

from __future__ import annotations

from nebh.controller.deploying import Choice
from nebh.model.api import NodeReport
from nebh.model.node import NodeRecord, NodeStatus
from nebh.model.policy import Policy
from nebh.model.trust import TrustedSet


def schedule(trusted: TrustedSet, policy: Policy, replicas: int, reports: dict[str, NodeReport], _now: int) -> Choice:
    """Spread `replicas` over the nodes that the policy admits, keeping a service where it runs."""
    runs = {
        node: sum(one.replicas for one in report.running if one.service == policy.service)
        for node, report in reports.items()
    }
    admitted = [node for node in trusted.nodes.nodes if _admits(policy, node)]
    admitted.sort(key=lambda node: (-runs.get(node.node_id, 0), node.name))
    chosen = {node.node_id: 0 for node in admitted if runs.get(node.node_id, 0)}
    for number in range(replicas):
        room = [node for node in admitted if chosen.get(node.node_id, 0) < policy.placement.max_per_node]
        if not room:
            return Choice(
                replicas={}, reasons=(f"{number} of {replicas} replicas fit on {len(admitted)} admitted nodes",)
            )
        best = min(room, key=lambda node: (chosen.get(node.node_id, 0), admitted.index(node)))
        chosen[best.node_id] = chosen.get(best.node_id, 0) + 1
    return Choice(replicas=chosen, reasons=(f"{len(admitted)} nodes are admitted by the policy",))


def _admits(policy: Policy, node: NodeRecord) -> bool:
    wanted = policy.placement
    anywhere = not wanted.groups and not wanted.nodes
    return node.status is NodeStatus.ACTIVE and (
        anywhere or node.name in wanted.nodes or bool(set(node.groups) & set(wanted.groups))
    )
