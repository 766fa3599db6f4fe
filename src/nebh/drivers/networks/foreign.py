"""What to tell a person whose own firewall drops our traffic. Pure: the ruleset as JSON in, advice out.

An `accept` of ours ends our table only; every other table still has its say. We change none of them: we name the chain
and the line that lets our links pass. Our own table goes on refusing what nobody declared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_OURS = ("inet", "nebh")
_VERSIONS = {"ip": ("v4",), "ip6": ("v6",), "inet": ("v4", "v6")}
_ENDS = {"drop", "reject"}


@dataclass(frozen=True, kw_only=True)
class ForeignChain:
    """A base chain of somebody else that can drop. hook: `forward` or `input`. versions: of v4, v6. advice: commands
    that let our links pass it."""

    family: str
    table: str
    chain: str
    hook: str
    versions: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ForeignDrops:
    """What a probe found. between, names: by `v4` / `v6`, whether two instances, and an instance and the resolver,
    could talk: `ok`, `refused` or `silent`. chains: those to suspect; empty when all is well."""

    between: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    chains: tuple[ForeignChain, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether everything came through."""
        return all(answer == "ok" for answer in (*self.between.values(), *self.names.values()))


def judge(*, between: dict[str, str], names: dict[str, str], ruleset: str) -> ForeignDrops:
    """Return the chains to suspect for what did not come through. ruleset: what `nft -j list ruleset` printed."""
    failed = {("forward", version) for version, answer in between.items() if answer != "ok"}
    failed |= {("input", version) for version, answer in names.items() if answer != "ok"}
    chains = find_chains(ruleset) if failed else ()
    return ForeignDrops(
        between=between,
        names=names,
        chains=tuple(c for c in chains if any((c.hook, version) in failed for version in c.versions)),
    )


def find_chains(ruleset: str) -> tuple[ForeignChain, ...]:
    """Return every base chain, not ours, on forward and input that can drop: by its policy or by a rule, followed
    through jumps."""
    items: list[dict[str, Any]] = json.loads(ruleset)["nftables"]
    chains = [item["chain"] for item in items if "chain" in item]
    rules: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for item in items:
        if "rule" in item:
            rule = item["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    found: list[ForeignChain] = []
    for chain in chains:
        family, table, name = chain["family"], chain["table"], chain["name"]
        if chain.get("hook") not in {"forward", "input"} or family not in _VERSIONS or (family, table) == _OURS:
            continue
        if chain.get("policy") == "drop" or _can_drop((family, table, name), rules, seen=set()):
            names = {c["name"] for c in chains if (c["family"], c["table"]) == (family, table)}
            advice = _advice(family, table, name, chain["hook"], names)
            versions = _VERSIONS[family]
            found.append(
                ForeignChain(
                    family=family, table=table, chain=name, hook=chain["hook"], versions=versions, advice=advice
                )
            )
    return tuple(found)


def _can_drop(
    place: tuple[str, str, str],
    rules: dict[tuple[str, str, str], list[dict[str, Any]]],
    *,
    seen: set[tuple[str, str, str]],
) -> bool:
    if place in seen:
        return False
    seen.add(place)
    for rule in rules.get(place, []):
        for part in rule.get("expr", []):
            if _ENDS & part.keys():
                return True
            aim = part.get("jump") or part.get("goto")
            if aim and _can_drop((place[0], place[1], aim["target"]), rules, seen=seen):
                return True
    return False


def _advice(family: str, table: str, chain: str, hook: str, names: set[str]) -> tuple[str, ...]:
    directions = ("-i",) if hook == "input" else ("-i", "-o")
    if table == "firewalld":
        return ("firewall-cmd --permanent --zone=trusted --add-interface=nebh+", "firewall-cmd --reload")
    ufw = f"ufw{'6' if family == 'ip6' else ''}-before-{hook}"
    if ufw in names:
        file = f"/etc/ufw/before{'6' if family == 'ip6' else ''}.rules"
        lines = tuple(f"add to {file} before COMMIT: -A {ufw} {way} nebh+ -j ACCEPT" for way in directions)
        return (*lines, "ufw reload")
    if family in {"ip", "ip6"} and table == "filter" and chain.isupper():
        program = "ip6tables" if family == "ip6" else "iptables"
        target = "DOCKER-USER" if hook == "forward" and "DOCKER-USER" in names else chain
        return tuple(f"{program} -I {target} {way} nebh+ -j ACCEPT" for way in directions)
    ways = ("iifname",) if hook == "input" else ("iifname", "oifname")
    return tuple(f"nft insert rule {family} {table} {chain} {way} '\"nebh*\"' accept" for way in ways)
