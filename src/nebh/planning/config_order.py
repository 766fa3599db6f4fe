"""Which layers a service meets on a node, and in which order: cluster < group < node < service < service@group <
service@node, each above the templates it extends. Layers of one rank have no order but a declared one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nebh.model.config_layer import CLUSTER_LAYER, SPEC_LAYER, Bundle, NodeFacts, Part
from nebh.model.errors import Problem
from nebh.planning.config_values import Path, join_key, place_of, show_value, split_key, walk_leaves


@dataclass
class _Chains:
    """Templates below parts; `problems` grows."""

    parts: dict[str, Part]
    problems: list[Problem] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def below(self, part: Part) -> tuple[Part, ...]:
        """Return the templates that a part extends, all of them, the lowest first, each once."""
        found: dict[str, Part] = {}
        self._descend(part, (), found)
        found.pop(part.layer, None)
        return tuple(found.values())

    def _descend(self, part: Part, above: tuple[str, ...], found: dict[str, Part]) -> None:
        for name in part.extends:
            if name in (*above, part.layer):
                circle = (*above, part.layer, name)
                self._complain(part, f"it extends itself: {' -> '.join(circle[circle.index(name) :])}")
            elif name not in self.parts:
                self._complain(part, f"it extends {name}, which does not exist", "`nebh config history` lists layers")
            elif not _may_extend(part.layer, name):
                allowed = "machine/T" if _is_of_machines(part.layer) else "template/T or machine/T"
                self._complain(part, f"it cannot extend {name}: {allowed} is allowed here")
            elif name not in found:
                self._descend(self.parts[name], (*above, part.layer), found)
        found.setdefault(part.layer, part)

    def _complain(self, part: Part, message: str, hint: str = "") -> None:
        found = Problem(file=place_of(part), line=0, column=0, path="extends", message=message, hint=hint)
        if str(found) not in self._said:
            self._said.add(str(found))
            self.problems.append(found)


def _is_of_machines(layer: str) -> bool:
    return layer == CLUSTER_LAYER or layer.startswith(("group/", "node/", "machine/"))


def _may_extend(layer: str, template: str) -> bool:
    return template.startswith("machine/") or (template.startswith("template/") and not _is_of_machines(layer))


def ranks_of(*, service: str, facts: NodeFacts) -> tuple[tuple[str, ...], ...]:
    """Return the names of the layers that meet on a node, by rank, the lowest first."""
    groups = tuple(sorted(facts.groups))
    return (
        (CLUSTER_LAYER,),
        tuple(f"group/{one}" for one in groups),
        (f"node/{facts.name}",),
        (SPEC_LAYER, f"service/{service}"),
        tuple(f"service/{service}/group/{one}" for one in groups),
        (f"service/{service}/node/{facts.name}",),
    )


def line_up(bundle: Bundle, facts: NodeFacts) -> tuple[tuple[Part, ...], tuple[Problem, ...]]:
    """Return the parts that meet on a node, the lowest first, each template once below the first layer that extends
    it; and every problem: cycles, unknown templates, layers of one rank that contradict each other."""
    parts = {one.layer: one for one in bundle.parts}
    chains = _Chains(parts)
    places = {group: number for number, group in enumerate(bundle.group_order)}
    lined: dict[str, Part] = {}
    for rank in ranks_of(service=bundle.service, facts=facts):
        peers = [parts[name] for name in rank if name in parts]
        peers.sort(key=lambda one: (places.get(_group_of(one.layer), -1), one.layer))
        below = {one.layer: chains.below(one) for one in peers}
        for number, one in enumerate(peers):
            for other in peers[number + 1 :]:
                chains.problems += _contradictions(one, other, below, places)
            for template in below[one.layer]:
                lined.setdefault(template.layer, template)
            lined[one.layer] = one
    return tuple(lined.values()), tuple(chains.problems)


def check_chains(parts: tuple[Part, ...]) -> tuple[Problem, ...]:
    """Return everything wrong with what parts extend, whichever node they are for."""
    chains = _Chains({one.layer: one for one in parts})
    for one in parts:
        chains.below(one)
    return tuple(chains.problems)


def _group_of(layer: str) -> str:
    return layer.rpartition("/")[2] if layer.startswith("group/") or "/group/" in layer else ""


def _contradictions(
    one: Part, other: Part, below: dict[str, tuple[Part, ...]], places: dict[str, int]
) -> Iterator[Problem]:
    """Yield what two layers of a rank say differently without a declared order."""
    groups = (_group_of(one.layer), _group_of(other.layer))
    if all(groups) and all(group in places for group in groups):
        return
    mine, theirs = _said_by(one, below[one.layer]), _said_by(other, below[other.layer])
    shared = {part.layer for part in below[one.layer]} & {part.layer for part in below[other.layer]}
    above = {path[:length] for path in theirs for length in range(1, len(path))}
    for path in sorted(mine):
        for where in _meeting(path, theirs, above):
            (speaker, said), (opposer, opposed) = mine[path], theirs[where]
            if said == opposed and path == where:
                continue
            if speaker in shared or opposer in shared:
                continue  # who changed what both extend knows of it
            hint = (
                f"name both in the cluster's `group_order`, or set it in one of them alone: {', '.join(groups)}"
                if all(groups)
                else "keep it in one of the two"
            )
            message = f"{_shown(one, speaker, said)}, {_shown(other, opposer, opposed)}: neither is above the other"
            yield Problem(file=place_of(one), line=0, column=0, path=join_key(path), message=message, hint=hint)


def _shown(part: Part, speaker: str, said: tuple[str, Any]) -> str:
    name = part.layer if speaker == part.layer else f"{part.layer} (by {speaker})"
    strategy, value = said
    return f"{name} deletes it" if strategy == "delete" else f"{name} says {show_value(value)[:80]}"


def _said_by(part: Part, below: tuple[Part, ...]) -> dict[Path, tuple[str, tuple[str, Any]]]:
    """Return by path (who said it last, (strategy, value)) for a layer with all it extends."""
    found: dict[Path, tuple[str, tuple[str, Any]]] = {}
    for one in (*below, part):
        for path, value in walk_leaves(one.values):
            found[path] = (one.layer, (one.merge.get(join_key(path), ""), value))
        for key, strategy in one.merge.items():
            if strategy == "delete":
                found[split_key(key)] = (one.layer, ("delete", None))
    return found


def _meeting(path: Path, others: dict[Path, Any], above: set[Path]) -> Iterator[Path]:
    """Yield the paths of `others` that are this one, above it or below it. above: all that stand above one of them."""
    for length in range(1, len(path) + 1):
        if path[:length] in others:
            yield path[:length]
    for one in others if path in above else ():
        if len(one) > len(path) and one[: len(path)] == path:
            yield one
