"""Rules of whoever signs and of whoever reads receipts (docs/security.md, 3): O2's consent, O3 and O5.

The others stand where their facts are: O1 in signing/floors, O2's keys in signing/roles, O4 in cli/output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nebh.model.node import NodeRecord
from nebh.model.rules import NONE, Finding, Rule, decide
from nebh.model.statement import Outcome, Receipt
from nebh.model.trust import Verdict

_SUCCESSES = frozenset(
    {Outcome.COMMITTED, Outcome.PREPARED, Outcome.STOPPED, Outcome.REMOVED, Outcome.ROTATED, Outcome.DONE}
)


@dataclass(frozen=True, kw_only=True)
class Consent:
    """widening: what a signature would newly allow, in words. consented: somebody who saw it said yes. agreed: what
    was agreed to at an earlier look, when somebody else published meanwhile; None = this is the first look."""

    widening: frozenset[str]
    consented: bool
    agreed: frozenset[str] | None = None


def _widens(facts: Consent) -> Finding | None:
    if facts.agreed is not None or facts.consented or not facts.widening:
        return None
    return Finding(
        reason="nobody agreed to what allows more than before",
        hint="--yes-widen agrees in scripts",
    )


def _again(facts: Consent) -> Finding | None:
    if facts.agreed is None or facts.widening <= facts.agreed:
        return None
    return Finding(
        reason="somebody else published meanwhile, and now this would allow more than you agreed to",
        hint="look at the lines above and run the command again",
    )


CONSENT_RULES: tuple[Rule[Consent], ...] = (
    Rule(id="O2.widens", description="what widens is signed only when somebody agrees", check=_widens),
    Rule(id="O2.again", description="a second look widens no more than was agreed to at the first", check=_again),
)


@dataclass(frozen=True, kw_only=True)
class Swap:
    """base: versions by role that a publication was built upon; current: those that stand now."""

    base: dict[str, int]
    current: dict[str, int]


def _same_base(facts: Swap) -> Finding | None:
    # The timestamp is left out: it is renewed by itself while an operator reads a difference.
    for role in sorted({*facts.base, *facts.current} - {"timestamp"}):
        built, stands = facts.base.get(role, 0), facts.current.get(role, 0)
        if built != stands:
            return Finding(
                reason=f"built upon {role} version {built}, but version {stands} stands now",
                hint="somebody else published meanwhile: look at what changed and run the command again",
            )
    return None


SWAP_RULES: tuple[Rule[Swap], ...] = (
    Rule(id="O3.base", description="a publication replaces exactly what it was built upon", check=_same_base),
)


@dataclass(frozen=True, kw_only=True)
class ReceiptFacts:
    """signer: hex key whose signature on the receipt was verified, "" = none. node: who is to confirm, as signed.
    nonce: this command's. published: the snapshot that this command published, 0 = it published none."""

    receipt: Receipt
    signer: str
    node: NodeRecord
    cluster_id: str
    nonce: str
    published: int = 0


def _signed(facts: ReceiptFacts) -> Finding | None:
    if facts.signer and facts.signer == facts.node.sign_pk:
        return None
    return Finding(reason="no known node signed it", alarm=True)


def _its_node(facts: ReceiptFacts) -> Finding | None:
    if facts.receipt.node_id == facts.node.node_id:
        return None
    return Finding(reason=f"it speaks for node {facts.receipt.node_id[:16]}, not for its signer", alarm=True)


def _its_cluster(facts: ReceiptFacts) -> Finding | None:
    if facts.receipt.cluster_id == facts.cluster_id:
        return None
    return Finding(reason=f"it is of cluster {facts.receipt.cluster_id[:32]}", alarm=True)


def _its_nonce(facts: ReceiptFacts) -> Finding | None:
    if facts.receipt.nonce == facts.nonce:
        return None
    return Finding(reason="it answers another command", alarm=True)


def _its_snapshot(facts: ReceiptFacts) -> Finding | None:
    seen = facts.receipt.snapshot
    if facts.receipt.outcome not in _SUCCESSES or seen >= facts.published:
        return None
    return Finding(
        reason=f"it names snapshot {seen}, this command published {facts.published}",
        hint="the node did not see what was published: does the controller withhold it?",
    )


RECEIPT_RULES: tuple[Rule[ReceiptFacts], ...] = (
    Rule(id="O5.signer", description="the node's key of its signed record signed it", check=_signed),
    Rule(id="O5.node", description="it speaks for that node", check=_its_node),
    Rule(id="O5.cluster", description="it carries our cluster_id", check=_its_cluster),
    Rule(id="O5.nonce", description="it repeats this command's nonce", check=_its_nonce),
    Rule(id="O5.snapshot", description="a success names the snapshot that was published", check=_its_snapshot),
)
OPERATE_RULES: tuple[Rule[Any], ...] = (*CONSENT_RULES, *SWAP_RULES, *RECEIPT_RULES)


def may_sign_difference(facts: Consent, *, disabled: frozenset[str] = NONE) -> Verdict:
    """Say whether a difference that was shown may be signed."""
    return decide(CONSENT_RULES, facts, disabled=disabled)


def may_publish(*, base: dict[str, int], current: dict[str, int], disabled: frozenset[str] = NONE) -> Verdict:
    """Say whether what was built upon `base` may replace what stands."""
    return decide(SWAP_RULES, Swap(base=base, current=current), disabled=disabled)


def counts(facts: ReceiptFacts, *, disabled: frozenset[str] = NONE) -> Verdict:
    """Say whether a receipt confirms this command."""
    return decide(RECEIPT_RULES, facts, disabled=disabled)
