"""N0-N3 and N13 on one verified set of metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nebh.model.names import NAME_PATTERN, is_name
from nebh.model.node import NodeRecord
from nebh.model.rules import Finding, Rule
from nebh.model.trust import AcceptedState, TrustedSet
from nebh.planning.accept_secret import find_foreign_list
from nebh.planning.claims import claims_conflict

SKEW = 120
"""Seconds that the clocks of an honest operator and node may differ."""
PRIMARY = "controller"
_ROLE = re.compile(rf"rel-({NAME_PATTERN})(?:\.[1-9]\d{{0,8}})?\Z")
_RELEASE = re.compile(rf"release/({NAME_PATTERN})/([1-9]\d{{0,15}})\.json\Z")
_ONLINE = ("snapshot", "timestamp")
_ALWAYS = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True, kw_only=True)
class MetadataFacts:
    """now: Unix seconds."""

    trusted: TrustedSet
    accepted: AcceptedState
    now: int

    @property
    def record(self) -> NodeRecord | None:
        """This node's own signed record."""
        return next((one for one in self.trusted.nodes.nodes if one.node_id == self.accepted.node_id), None)


def _cluster(facts: MetadataFacts) -> Finding | None:
    foreign = sorted({*facts.trusted.cluster_ids} - {facts.accepted.cluster_id})
    if not foreign:
        return None
    return Finding(
        reason=f"it carries cluster {foreign[0] or '(none)'}, this node belongs to {facts.accepted.cluster_id}",
        hint="the source serves another cluster: check the address",
        alarm=True,
    )


def clock_finding(*, now: int, newest_signed_at: int) -> Finding | None:
    """Return a finding when the clock (Unix seconds) is before something that an operator has signed (N13)."""
    if now + SKEW >= newest_signed_at:
        return None
    return Finding(
        reason=f"the clock is {newest_signed_at - now} s before the newest signature of an operator",
        hint="set the clock (NTP); what runs now runs on, nothing new is accepted until then",
        alarm=True,
    )


def _clock(facts: MetadataFacts) -> Finding | None:
    newest = max(facts.trusted.newest_signed_at, facts.accepted.newest_signed_at)
    return clock_finding(now=facts.now, newest_signed_at=newest)


def _expired(facts: MetadataFacts) -> Finding | None:
    late = [role for role in _ALWAYS if facts.trusted.expires.get(role, 0) <= facts.now]
    if not late:
        return None
    return Finding(
        reason=f"the role {late[0]} has expired",
        hint="run `nebh trust renew` with an operator key; what runs now runs on",
        alarm=True,
    )


def _older(facts: MetadataFacts) -> Finding | None:
    floors = {role: version for role, (version, _) in facts.accepted.roles.items() if role not in _ONLINE}
    given = facts.trusted.versions
    older = sorted(role for role, version in floors.items() if role in given and given[role] < version)
    if not older:
        return None
    role = older[0]
    newer = [one for one in given if one not in _ONLINE and given[one] > floors.get(one, 0)]
    reason = f"role {role} is version {given[role]}, this node has accepted {floors[role]}"
    if newer:
        return Finding(
            reason=f"{reason}, while {newer[0]} is newer than accepted: neither set contains the other",
            hint="a source mixes old and new metadata: look at the controller",
            alarm=True,
        )
    return Finding(reason=reason, hint=f"the source {facts.trusted.source} lags behind, or was rolled back")


def _equivocation(facts: MetadataFacts) -> Finding | None:
    for role, (version, digest) in sorted(facts.accepted.roles.items()):
        same = role not in _ONLINE and facts.trusted.versions.get(role) == version
        if same and facts.trusted.digests.get(role) != digest:
            return Finding(
                reason=f"equivocation: role {role} version {version} has other bytes than this node has accepted",
                hint="a signing key was used for two different files: find out which computer did that",
                alarm=True,
            )
    return None


def _baseline(facts: MetadataFacts) -> Finding | None:
    record = facts.record
    if record is None:
        return None
    base, given = record.baseline, facts.trusted.versions
    for role, version in sorted(base.roles.items()):
        if role not in _ONLINE and role in given and given[role] < version:
            return _behind(role, given[role], version)
    # A newer root may have replaced the online keys, and with them the numbers that they had run up.
    same_root = given.get("root", 0) <= base.roles.get("root", 0)
    if facts.trusted.source == PRIMARY and same_root and given.get("snapshot", 0) < base.snapshot:
        return _behind("snapshot", given.get("snapshot", 0), base.snapshot)
    return None


def _behind(role: str, given: int, base: int) -> Finding:
    return Finding(
        reason=f"role {role} is version {given}, this node was enrolled at {base}",
        hint="the source serves a repository from before this node's enrolment",
        alarm=True,
    )


def _source(facts: MetadataFacts) -> Finding | None:
    floors = facts.accepted.sources.get(facts.trusted.source)
    if floors is None or facts.trusted.online_keys != facts.accepted.online_keys:
        return None
    for role, floor in zip(_ONLINE, floors, strict=True):
        given = facts.trusted.versions.get(role, 0)
        if given < floor:
            return Finding(
                reason=f"{role} is version {given}, the source {facts.trusted.source} has given {floor} before",
                hint="the source went back in time: restored from a backup, or attacked",
                alarm=True,
            )
    return None


def _top_level(facts: MetadataFacts) -> Finding | None:
    wrong = [path for path in facts.trusted.top_level if path.startswith("release/")]
    if not wrong:
        return None
    return Finding(reason=f"targets itself lists {wrong[0]}; releases belong to `rel-` roles", alarm=True)


def _delegations(facts: MetadataFacts) -> Finding | None:
    seen: set[str] = set()
    for one in facts.trusted.delegations:
        match = _ROLE.match(one.role)
        service = match[1] if match else ""
        problem = ""
        if not is_name(service):
            problem = "its name is not rel-<service>"
        elif one.paths != (f"release/{service}/*",):
            problem = f"its paths are not exactly release/{service}/*"
        elif not one.terminating:
            problem = "it is not terminating"
        elif one.own_delegations:
            problem = "it delegates on"
        elif one.threshold < 1 or not one.keyids:
            problem = "nobody has to sign it"
        elif service in seen:
            problem = f"{service} has a second role"
        if problem:
            return Finding(reason=f"the delegation to {one.role} is refused: {problem}", alarm=True)
        seen.add(service)
    return None


def _listed(facts: MetadataFacts) -> Finding | None:
    for one in facts.trusted.delegations:
        match = _ROLE.match(one.role)
        service = match[1] if match else ""
        for path in one.listed:
            found = _RELEASE.match(path)
            if found is None or found[1] != service:
                return Finding(reason=f"role {one.role} lists {path}, not a release of {service}", alarm=True)
    return None


def _agree(facts: MetadataFacts) -> Finding | None:
    for service, policy in sorted(facts.trusted.policies.items()):
        if policy.service != service:
            return Finding(reason=f"policy/{service}.json is about {policy.service}", alarm=True)
    for path, release in sorted(facts.trusted.releases.items()):
        if path != f"release/{release.service}/{release.counter}.json":
            return Finding(reason=f"{path} is release {release.counter} of {release.service}", alarm=True)
    return None


def _claims(facts: MetadataFacts) -> Finding | None:
    found = claims_conflict(facts.trusted.policies.values())
    return Finding(reason=str(found[0]), hint="let one of them give the name up", alarm=True) if found else None


def _secrets(facts: MetadataFacts) -> Finding | None:
    return find_foreign_list(facts.trusted)


METADATA_RULES: tuple[Rule[MetadataFacts], ...] = (
    Rule(id="N0.metadata", description="every body carries our cluster_id", check=_cluster),
    Rule(id="N13.metadata", description="the clock is not before the newest operator signature", check=_clock),
    Rule(id="N1.expired", description="root, targets, snapshot and timestamp have not expired", check=_expired),
    Rule(id="N2.older", description="no role is older than accepted", check=_older),
    Rule(id="N2.equivocation", description="an accepted version keeps its bytes", check=_equivocation),
    Rule(id="N2.baseline", description="no role is older than at this node's enrolment", check=_baseline),
    Rule(id="N2.source", description="a source's snapshot and timestamp do not go back", check=_source),
    Rule(id="N3.top-level", description="targets lists no release itself", check=_top_level),
    Rule(id="N3.delegations", description="one narrow terminating role per service", check=_delegations),
    Rule(id="N3.listed", description="a role lists releases of its service only", check=_listed),
    Rule(id="N3.agree", description="paths and bodies name the same service", check=_agree),
    Rule(id="N3.claims", description="a public name or port belongs to one service", check=_claims),
    Rule(id="N11.agree", description="the list of a secret is about that secret", check=_secrets),
)
