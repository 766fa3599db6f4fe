"""Rules for an operator's question about data: names of files are data too, so no relay may ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nebh.model.errors import Refused
from nebh.model.question import Question

RULE: Final = "question"
LONGEST: Final = 300
"""Seconds that a question may be good for."""


@dataclass(frozen=True, kw_only=True)
class QuestionFacts:
    """signer: hex Ed25519 key whose signature was verified; answered: nonces of questions that may still be good; now:
    Unix seconds. The rest: this node's own."""

    question: Question
    signer: str
    operator_keys: tuple[str, ...]
    cluster_id: str
    node_id: str
    answered: frozenset[str]
    now: int


def check_question(facts: QuestionFacts) -> None:
    """Raise Refused for a question that is not to be answered."""
    one = facts.question
    problem = ""
    if one.cluster_id != facts.cluster_id:
        problem = f"the question is of cluster {one.cluster_id}"
    elif facts.signer not in facts.operator_keys:
        problem = "no operator signed the question"
    elif one.node_id != facts.node_id:
        problem = "the question is not for this node"
    elif not one.nonce or one.nonce in facts.answered:
        problem = "the question was answered before"
    elif not facts.now <= one.not_after <= facts.now + LONGEST:
        problem = "the time of the question has passed, or is too far ahead"
    if problem:
        raise Refused(f"cannot answer: {problem}", rule=RULE, hint="give the command again; do the clocks agree?")
