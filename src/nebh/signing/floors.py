"""O1: what this operator's key last saw or signed, and that nothing older is built upon."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from nebh.model.rules import NONE, Finding, Rule, decide, demand
from nebh.model.trust import TrustedSet
from nebh.signing.repository import Publication
from nebh.signing.trust_store import role_of

_ONLINE = ("snapshot", "timestamp")


@dataclass(frozen=True, kw_only=True)
class RoleFloor:
    """A role's version and the hex SHA-256 of its bytes."""

    version: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Floors:
    """roles: by role name. online_keys: as in TrustedSet; other keys let snapshot and timestamp begin again."""

    cluster_id: str
    online_keys: str = ""
    roles: dict[str, RoleFloor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FloorFacts:
    """A verified set, and what this computer saw before."""

    trusted: TrustedSet
    floors: Floors

    @property
    def pairs(self) -> Iterator[tuple[str, int, RoleFloor]]:
        """Each role of the set that has a floor: name, version now, floor. Left out are release roles that were
        removed, or that expired and cannot be changed anyway."""
        for role, floor in sorted(_standing(self.floors, self.trusted).items()):
            if role in self.trusted.versions:
                yield role, self.trusted.versions[role], floor


def _cluster(facts: FloorFacts) -> Finding | None:
    if set(facts.trusted.cluster_ids) == {facts.floors.cluster_id}:
        return None
    return Finding(reason="it is of another cluster")


def _older(facts: FloorFacts) -> Finding | None:
    for role, version, floor in facts.pairs:
        if version < floor.version:
            return Finding(
                reason=f"{role} is version {version}, this computer saw {floor.version} already",
                hint="the controller serves old metadata; nothing was signed. Compare `nebh trust show` elsewhere",
            )
    return None


def _equivocation(facts: FloorFacts) -> Finding | None:
    for role, version, floor in facts.pairs:
        # A timestamp may be renewed twice under one version by two keys; it says nothing but "still so".
        if version == floor.version and role != "timestamp" and facts.trusted.digests[role] != floor.digest:
            return Finding(
                reason=f"this computer saw other bytes as {role} version {version}",
                hint="equivocation: somebody shows different things to different computers; nothing was signed",
            )
    return None


FLOOR_RULES: tuple[Rule[FloorFacts], ...] = (
    Rule(id="N0.floors", description="every body carries our cluster_id", check=_cluster),
    Rule(id="O1.older", description="no role is older than this computer saw or signed", check=_older),
    Rule(id="O1.equivocation", description="a version that was seen keeps its bytes", check=_equivocation),
)


def check_floors(trusted: TrustedSet, floors: Floors, *, disabled: frozenset[str] = NONE) -> None:
    """Raise Refused (O1) when `trusted` is older than what was seen, or has other bytes under the same version."""
    verdict = decide(FLOOR_RULES, FloorFacts(trusted=trusted, floors=floors), disabled=disabled)
    demand(verdict, verb="build upon", what="what the controller serves")


def raise_floors(floors: Floors, trusted: TrustedSet) -> Floors:
    """Return the floors after `trusted` was seen (and checked)."""
    standing = _standing(floors, trusted)
    seen = {
        role: RoleFloor(version=version, digest=trusted.digests[role]) for role, version in trusted.versions.items()
    }
    return replace(floors, online_keys=trusted.online_keys, roles=_highest(standing, seen))


def raise_floors_by(floors: Floors, publication: Publication) -> Floors:
    """Return the floors after `publication` was accepted by the controller."""
    made: dict[str, RoleFloor] = {}
    for name, data in publication.metadata.items():
        role = role_of(name)
        number = name.partition(".")[0]
        if number.isdigit():
            made = _highest(made, {role: RoleFloor(version=int(number), digest=hashlib.sha256(data).hexdigest())})
    return replace(floors, roles=_highest(floors.roles, made))


def floors_from(text: Mapping[str, tuple[int, str]], *, cluster_id: str) -> Floors:
    """Return floors for a new computer, from what `nebh trust show` said on another: (version, digest) by role."""
    return Floors(
        cluster_id=cluster_id, roles={role: RoleFloor(version=v, digest=digest) for role, (v, digest) in text.items()}
    )


def _standing(floors: Floors, trusted: TrustedSet) -> dict[str, RoleFloor]:
    if not floors.online_keys or floors.online_keys == trusted.online_keys:
        return floors.roles
    # The root floor still holds: only a newer root, signed by the recovery key, can have brought other keys.
    return {role: floor for role, floor in floors.roles.items() if role not in _ONLINE}


def _highest(one: Mapping[str, RoleFloor], other: Mapping[str, RoleFloor]) -> dict[str, RoleFloor]:
    found = dict(one)
    for role, floor in other.items():
        if role not in found or floor.version >= found[role].version:
            found[role] = floor
    return found
