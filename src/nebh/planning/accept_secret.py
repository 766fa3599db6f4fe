"""N11: a secret reaches a container only if the policy names it, a signed list holds its box for this node, and the box
opens with this node's key for exactly that service, name and version."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.rules import Finding, Rule
from nebh.model.secret import MAX_VALUE, SUITE, Box, SecretList, key_of
from nebh.model.trust import TrustedSet

_OVERHEAD = 48
"""Bytes by which a box is longer than its value."""


def find_foreign_list(trusted: TrustedSet) -> Finding | None:
    """Return why a signed list is not the one that its path says."""
    for key, listed in sorted(trusted.secrets.items()):
        if key != key_of(listed.service, listed.name):
            return Finding(reason=f"secrets/{key}.json is about {key_of(listed.service, listed.name)}", alarm=True)
    return None


def find_unnamed(release: Release, policy: Policy) -> Finding | None:
    """Return why a release may not have the secrets that it uses."""
    for use in release.secrets:
        if use.name not in policy.secrets:
            return Finding(
                reason=f"release {release.counter} of {release.service} uses the secret {use.name}, which the policy "
                "does not name",
                hint="an operator deploys the spec that names it; a CI key cannot",
            )
    return None


def find_missing(release: Release, *, node_id: str, listed: dict[str, SecretList]) -> Finding | None:
    """Return which secret this node cannot have. listed: signed lists by `service/name`."""
    for use in release.secrets:
        key = key_of(release.service, use.name)
        one = listed.get(key)
        if one is None or node_id not in one.boxes:
            what = "no value of it was sealed" if one is None else "its value was not sealed to this node"
            return Finding(
                reason=f"release {release.counter} of {release.service} uses the secret {key}: {what}",
                hint=f"`nebh secret set {key}`, or `nebh deploy` from the computer whose vault holds it",
            )
    return None


@dataclass(frozen=True, kw_only=True)
class SecretFacts:
    """A box that arrived for this node. listed: the signed list; arrived: what its bytes are; opened: whether the
    node's key opened it for this cluster, node, service, name and version."""

    key: str
    node_id: str
    listed: SecretList
    arrived: Box
    opened: bool


def _suite(facts: SecretFacts) -> Finding | None:
    if facts.listed.suite == SUITE:
        return None
    return Finding(
        reason=f"{facts.key} was sealed by {facts.listed.suite[:80]!r}, this node opens {SUITE}",
        hint="seal it with a program of this node's version",
    )


def _bytes(facts: SecretFacts) -> Finding | None:
    signed = facts.listed.boxes.get(facts.node_id)
    if signed == facts.arrived and _OVERHEAD < facts.arrived.bytes <= _OVERHEAD + MAX_VALUE:
        return None
    return Finding(
        reason=f"the box of {facts.key} that arrived is not the one that was signed",
        hint="the controller or a mirror is broken or lies; what runs, runs on with what it has",
        alarm=True,
    )


def _opened(facts: SecretFacts) -> Finding | None:
    if facts.opened:
        return None
    return Finding(
        reason=f"the box of {facts.key}, version {facts.listed.version}, was not sealed to this node's key for exactly that",
        hint=f"seal it anew: `nebh secret rotate {facts.key}`; was this node's key replaced?",
        alarm=True,
    )


SECRET_RULES: tuple[Rule[SecretFacts], ...] = (
    Rule(id="N11.suite", description="a secret was sealed the way that this node opens", check=_suite),
    Rule(id="N11.bytes", description="the box is the one whose hash the signed list names for this node", check=_bytes),
    Rule(id="N11.opened", description="this node's key opened it for this service, name and version", check=_opened),
)
