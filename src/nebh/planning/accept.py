"""The acceptance rules of a node (docs/security.md, 3): everything it is asked to take passes here or is refused.

Four questions, each a table of rules: is this set of metadata taken (`accept_metadata`), is this choice obeyed
(`accept_assignment`, `accept_order`), is this image run (`accept_image`), is this secret given (`accept_secret`). Facts that need keys, files or a clock come
in as values. Not here: N1's signatures (signing/trust_store), N10 (stacks), N12 (the container's
configuration is itself a pure function), N15 (network plan), N16 (programs).
"""

from __future__ import annotations

from typing import Any

from nebh.model.image import ImageRef, LintFinding, TreeManifest
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.rules import NONE, Rule, decide
from nebh.model.statement import Assignment, Phase
from nebh.model.trust import AcceptedState, TrustedSet, Verdict
from nebh.planning.accept_choice import CHOICE_RULES, Choice
from nebh.planning.accept_image import IMAGE_RULES, ImageFacts
from nebh.planning.accept_metadata import METADATA_RULES, MetadataFacts
from nebh.planning.accept_order import ORDER_RULES, OrderFacts
from nebh.planning.accept_secret import SECRET_RULES, SecretFacts

RULES: tuple[Rule[Any], ...] = (*METADATA_RULES, *CHOICE_RULES, *IMAGE_RULES, *ORDER_RULES, *SECRET_RULES)


def accept_metadata(
    trusted: TrustedSet, accepted: AcceptedState, *, now: int, disabled: frozenset[str] = NONE
) -> Verdict:
    """Say whether this verified set raises the node's floors. now: Unix seconds."""
    return decide(METADATA_RULES, MetadataFacts(trusted=trusted, accepted=accepted, now=now), disabled=disabled)


def accept_assignment(choice: Choice, *, disabled: frozenset[str] = NONE) -> Verdict:
    """Say whether a controller's choice (or, `local`, that of root on the node) is obeyed."""
    return decide(CHOICE_RULES, choice, disabled=disabled)


def accept_order(facts: OrderFacts, *, disabled: frozenset[str] = NONE) -> Verdict:
    """Say whether an operator's order is carried out."""
    return decide(ORDER_RULES, facts, disabled=disabled)


def accept_secret(facts: SecretFacts, *, disabled: frozenset[str] = NONE) -> Verdict:
    """Say whether a box that arrived is the secret that was signed for this node."""
    return decide(SECRET_RULES, facts, disabled=disabled)


def accept_image(
    *,
    release: Release,
    policy: Policy,
    found: ImageRef,
    manifest: TreeManifest,
    findings: tuple[LintFinding, ...],
    disabled: frozenset[str] = NONE,
) -> Verdict:
    """Say whether the image that arrived is the release's, within its policy, has the program, and is minimal.

    found: digest, bytes and entries of the manifest that arrived. findings: `lint.lint_manifest` of it.
    """
    facts = ImageFacts(release=release, policy=policy, found=found, manifest=manifest, findings=findings)
    return decide(IMAGE_RULES, facts, disabled=disabled)


def local_wish(
    accepted: AcceptedState, *, service: str, epoch: int, counter: int, replicas: int, phase: Phase = Phase.RUN
) -> Assignment:
    """Return the assignment that root on the node makes for itself, to be judged with `Choice(local=True)`."""
    return Assignment(
        cluster_id=accepted.cluster_id,
        node_id=accepted.node_id,
        seq=0,
        assignment_id="local",
        nonce="",
        service=service,
        epoch=epoch,
        counter=counter,
        replicas=replicas,
        phase=phase,
    )
