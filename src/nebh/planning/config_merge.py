"""Layers become one tree of values that remembers, for each, which layer gave it and what that overrode.

Nothing is guessed: maps merge, everything else replaces unless a strategy is declared; a value that would turn a map
or list into something else is a problem unless it says `replace`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from nebh.model.config_layer import KeyRule, Origin, Part
from nebh.model.errors import Problem
from nebh.planning.config_values import Path, join_key, kind_of, place_of, split_key


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """A value that another took the place of. value: plain; None = it had been deleted."""

    value: Any
    origin: Origin


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A text, number or truth. overrode: oldest first."""

    value: str | int | bool
    origin: Origin
    overrode: tuple[Overridden, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A map. origin: who made it; its children have their own."""

    children: dict[str, Tree]
    origin: Origin
    overrode: tuple[Overridden, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A list. origin: who gave it or changed it last; its items have their own."""

    items: tuple[Tree, ...]
    origin: Origin
    overrode: tuple[Overridden, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gone:
    """Where a layer deleted something."""

    origin: Origin
    overrode: tuple[Overridden, ...] = ()


Tree = Leaf | Branch | Row | Gone


def to_plain(tree: Tree) -> Any:
    """Return values without their origins."""
    if isinstance(tree, Branch):
        return {key: to_plain(one) for key, one in tree.children.items() if not isinstance(one, Gone)}
    if isinstance(tree, Row):
        return [to_plain(one) for one in tree.items]
    return None if isinstance(tree, Gone) else tree.value


def find_tree(tree: Tree, path: Path) -> Tree | None:
    """Return what stands at a path, Gone included; items of lists by their number."""
    for word in path:
        below: Tree | None = None
        if isinstance(tree, Branch):
            below = tree.children.get(word)
        elif isinstance(tree, Row) and word.isdecimal() and int(word) < len(tree.items):
            below = tree.items[int(word)]
        if below is None:
            return None
        tree = below
    return tree


def leaves_of(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Tree]]:
    """Yield every Leaf, Gone, empty Branch and empty Row at or below `tree` with its path."""
    if isinstance(tree, Branch) and tree.children:
        for key, one in tree.children.items():
            yield from leaves_of(one, (*path, key))
    elif isinstance(tree, Row) and tree.items:
        for number, one in enumerate(tree.items):
            yield from leaves_of(one, (*path, str(number)))
    else:
        yield path, tree


def merge_parts(parts: tuple[Part, ...], *, schema: dict[str, KeyRule]) -> tuple[Branch, tuple[Problem, ...]]:
    """Return the tree of parts, the lowest first, and every place where they do not fit. schema: strategies where a
    part says none."""
    merger = _Merger({key: rule.merge for key, rule in schema.items() if rule.merge})
    tree = Branch(children={}, origin=Origin(layer=""))
    for part in parts:
        tree = merger.lay(tree, part)
    return tree, tuple(merger.problems)


class _Merger:
    """Lays one part on a tree after the other; `problems` grows."""

    def __init__(self, strategies: dict[str, str]) -> None:
        self.problems: list[Problem] = []
        self._strategies = strategies

    def lay(self, tree: Branch, part: Part) -> Branch:
        """Return `tree` with a part on top."""
        for key, strategy in part.merge.items():
            if strategy == "delete":
                tree = _delete(tree, split_key(key), part.origin)
        laid = self._merge_map(tree, part.values, part, ())
        assert isinstance(laid, Branch)
        return laid

    def _merge(self, below: Tree | None, value: Any, part: Part, path: Path) -> Tree:
        key = join_key(path)
        strategy = part.merge.get(key) or self._strategies.get(key, "")
        if below is None or isinstance(below, Gone) or strategy == "replace":
            return _fresh(value, part.origin, below)
        if isinstance(value, dict):
            if isinstance(below, Branch):
                return self._merge_map(below, value, part, path)
        elif isinstance(value, (list, tuple)):
            if isinstance(below, Row):
                return self._merge_list(below, list(value), strategy, part, path)
        elif isinstance(below, Leaf):
            return Leaf(value=value, origin=part.origin, overrode=history(below))
        self._complain(below, value, part, key)
        return below

    def _merge_map(self, below: Branch, value: dict[str, Any], part: Part, path: Path) -> Tree:
        children = dict(below.children)
        for key, one in value.items():
            children[key] = self._merge(children.get(key), one, part, (*path, key))
        return replace(below, children=children)

    def _merge_list(self, below: Row, value: list[Any], strategy: str, part: Part, path: Path) -> Tree:
        added = tuple(_fresh(one, part.origin, None) for one in value)
        if strategy == "append":
            return Row(items=(*below.items, *added), origin=part.origin, overrode=history(below))
        if strategy == "prepend":
            return Row(items=(*added, *below.items), origin=part.origin, overrode=history(below))
        if strategy.startswith("by "):
            return self._merge_by(below, value, strategy.removeprefix("by "), part, path)
        return Row(items=added, origin=part.origin, overrode=history(below))

    def _merge_by(self, below: Row, value: list[Any], name: str, part: Part, path: Path) -> Tree:
        items: list[Tree] = list(below.items)
        places = {_name_of(one, name): number for number, one in enumerate(items)}
        for one in value:
            wanted = one.get(name) if isinstance(one, dict) else None
            at = places.get(wanted) if wanted is not None else None
            if at is None:
                items.append(_fresh(one, part.origin, None))
            else:
                items[at] = self._merge(items[at], one, part, (*path, str(at)))
        return Row(items=tuple(items), origin=part.origin, overrode=history(below))

    def _complain(self, below: Tree, value: Any, part: Part, key: str) -> None:
        message = f"it is {kind_of(value)} here and {kind_of(to_plain(below))} in {below.origin}"
        hint = f"give it the same shape, or declare `merge: {{{key}: replace}}`"
        self.problems.append(Problem(file=place_of(part), line=0, column=0, path=key, message=message, hint=hint))


def history(below: Tree) -> tuple[Overridden, ...]:
    """Return what overriding `below` puts on record, oldest first."""
    return (*below.overrode, Overridden(value=to_plain(below), origin=below.origin))


def _name_of(item: Tree, name: str) -> Any:
    found = item.children.get(name) if isinstance(item, Branch) else None
    return found.value if isinstance(found, Leaf) else None


def _fresh(value: Any, origin: Origin, below: Tree | None) -> Tree:
    """Return a tree of one origin. below: what it takes the place of; what it does not name of that is gone."""
    past = () if below is None else history(below)
    if isinstance(value, dict):
        before = below.children if isinstance(below, Branch) else {}
        children: dict[str, Tree] = {key: _fresh(one, origin, before.get(key)) for key, one in value.items()}
        for key, one in before.items():
            if key not in children:
                children[key] = one if isinstance(one, Gone) else Gone(origin=origin, overrode=history(one))
        return Branch(children=children, origin=origin, overrode=past)
    if isinstance(value, (list, tuple)):
        return Row(items=tuple(_fresh(one, origin, None) for one in value), origin=origin, overrode=past)
    return Leaf(value=value, origin=origin, overrode=past)


def _delete(tree: Branch, path: Path, origin: Origin) -> Branch:
    below = tree.children.get(path[0])
    if below is None or isinstance(below, Gone):
        return tree
    if len(path) == 1:
        after: Tree = Gone(origin=origin, overrode=history(below))
    elif isinstance(below, Branch):
        after = _delete(below, path[1:], origin)
    else:
        return tree
    return replace(tree, children={**tree.children, path[0]: after})


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One value and how it came about. value: plain, None = deleted; overrode: oldest first."""

    key: str
    value: Any
    origin: Origin
    overrode: tuple[Overridden, ...]


def explain(tree: Branch, key: str = "") -> tuple[Explained, ...]:
    """Return every value at or below a dotted key ("" = all), each with its origin; () where the key is unknown."""
    path = split_key(key) if key else ()
    found = find_tree(tree, path)
    if found is None:
        return ()
    rows = []
    for where, one in leaves_of(found, path):
        if isinstance(one, Row | Branch) and not where:
            continue
        rows.append(
            Explained(
                key=join_key(where),
                value=None if isinstance(one, Gone) else to_plain(one),
                origin=one.origin,
                overrode=one.overrode,
            )
        )
    if isinstance(found, Row) and found.overrode:
        # what a list as a whole took the place of stands at no item of it
        rows.insert(0, Explained(key=key, value=to_plain(found), origin=found.origin, overrode=found.overrode))
    return tuple(rows)
