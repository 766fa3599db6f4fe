"""Rules for an operator's order: what rewinds or destroys."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.rules import Finding, Rule
from nebh.model.statement import Order
from nebh.model.trust import AcceptedState
from nebh.planning.accept_metadata import clock_finding


@dataclass(frozen=True, kw_only=True)
class OrderFacts:
    """signer: hex Ed25519 key whose signature was verified. operator_keys: of role targets. fresh: metadata has not
    expired. now: Unix seconds."""

    order: Order
    signer: str
    operator_keys: tuple[str, ...]
    accepted: AcceptedState
    fresh: bool
    now: int


def _cluster(facts: OrderFacts) -> Finding | None:
    if facts.order.cluster_id == facts.accepted.cluster_id:
        return None
    return Finding(reason=f"the order is for cluster {facts.order.cluster_id}", alarm=True)


def _signer(facts: OrderFacts) -> Finding | None:
    if facts.signer in facts.operator_keys:
        return None
    return Finding(reason="the order is not signed by an operator", alarm=True)


def _fresh(facts: OrderFacts) -> Finding | None:
    if facts.fresh:
        return None
    return Finding(reason="metadata is expired: no order is taken", hint="run `nebh trust renew` with an operator key")


def _addressee(facts: OrderFacts) -> Finding | None:
    if facts.accepted.node_id in facts.order.nodes:
        return None
    return Finding(reason="the order is not for this node", alarm=True)


def _nonce(facts: OrderFacts) -> Finding | None:
    if facts.order.nonce and facts.order.nonce not in facts.accepted.nonces:
        return None
    return Finding(reason="the order was carried out here before", hint="give the command again to sign a new one")


def _clock(facts: OrderFacts) -> Finding | None:
    return clock_finding(now=facts.now, newest_signed_at=max(facts.accepted.newest_signed_at, facts.order.signed_at))


def _late(facts: OrderFacts) -> Finding | None:
    if facts.now <= facts.order.not_after:
        return None
    reason = f"the order was to be carried out until {facts.now - facts.order.not_after} s ago"
    return Finding(reason=reason, hint="give the command again")


ORDER_RULES: tuple[Rule[OrderFacts], ...] = (
    Rule(id="N0.order", description="it carries our cluster_id", check=_cluster),
    Rule(id="order.signer", description="an operator signed it", check=_signer),
    Rule(id="order.fresh", description="metadata has not expired", check=_fresh),
    Rule(id="N4.order", description="it is for this node", check=_addressee),
    Rule(id="order.nonce", description="each order once", check=_nonce),
    Rule(id="N13.order", description="the clock is not before the newest operator signature", check=_clock),
    Rule(id="order.not-after", description="its time has not passed", check=_late),
)
