"""Values for templates that know where they come from, and the record of which were used.

They behave as plain text, numbers, maps and lists do. Truths cannot carry anything: they are noted when they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nebh.model.rendering import Use
from nebh.planning.config_merge import Branch, Gone, Row, Tree

Uses = tuple[Use, ...]
_NONE: Uses = ()


class TrackedText(str):  # noqa: SLOT000 - it carries something
    """Text with the values that it was made of."""

    _uses: Uses = _NONE


class TrackedInt(int):
    """A number with the values that it was made of."""

    _uses: Uses = _NONE


class TrackedMap(dict[str, Any]):
    """A map. _own: what decided that it has just these keys; _keys: by key, where it comes from."""

    _path = ""
    _own: Uses = _NONE

    def __init__(self, items: dict[str, Any], *, recorder: Recorder, keys: dict[str, Uses]) -> None:
        super().__init__(items)
        self._recorder, self._keys = recorder, keys

    def took(self, key: str) -> Any:
        """Return a value that a template asks for by its key."""
        value = dict.__getitem__(self, key)
        if isinstance(value, bool):
            self._recorder.note(self._keys.get(key, _NONE))
        return value

    def __iter__(self) -> Iterator[str]:
        return (text_of(key, self._keys.get(key, _NONE)) for key in dict.__iter__(self))

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return [self.took(key) for key in dict.__iter__(self)]

    def items(self) -> Any:
        return [(text_of(key, self._keys.get(key, _NONE)), self.took(key)) for key in dict.__iter__(self)]

    def get(self, key: str, default: Any = None) -> Any:
        return self.took(key) if key in self else default


class TrackedList(list[Any]):
    """A list. _own: what decided that it has just these items."""

    _own: Uses = _NONE
    _items: tuple[Uses, ...] = ()


class Recorder:
    """What a template reads while it is rendered. names: by variable, what truths come from; place: template and line
    of the piece of text made last, and whether its lines are the template's own."""

    def __init__(self) -> None:
        self.place: tuple[str, int, bool] = ("", 0, False)
        self.names: dict[str, Uses] = {}
        self._reads: dict[Use, None] = {}
        self._waiting: dict[int, dict[Use, None]] = {}
        self._scopes: list[tuple[dict[Use, None], int]] = []
        self._taken = 0

    def note(self, uses: Iterable[Use]) -> None:
        """Put reads on record."""
        for one in uses:
            self._reads[one] = None

    def drain(self) -> dict[Use, None]:
        """Return the reads since the last time."""
        found, self._reads = self._reads, {}
        return found

    def take(self) -> tuple[Iterable[Use], Iterable[Use]]:
        """Return (what a piece of text was made of, what it stands under)."""
        self._taken += 1
        conditions: dict[Use, None] = {}
        for uses, _ in self._scopes:
            conditions.update(uses)
        return self.drain(), conditions

    def decide(self, number: int, *, first: bool) -> None:
        """What was read since decides about a block that may be entered next."""
        read = self.drain()
        self._waiting[number] = read if first else {**self._waiting.get(number, {}), **read}

    def enter(self, number: int) -> None:
        """A block begins."""
        self._scopes.append((self._waiting.get(number, {}), self._taken))

    def leave(self) -> None:
        """A block ends. Inside a macro nobody took its text yet: what decided on it is handed to who takes it."""
        uses, taken = self._scopes.pop()
        if taken == self._taken:
            self._reads.update(uses)

    def reset(self) -> None:
        """Begin anew."""
        self._reads, self._waiting, self._scopes, self._taken = {}, {}, [], 0
        self.place = ("", 0, False)


def text_of(text: str, uses: Uses) -> TrackedText:
    """Return text that knows where it comes from."""
    made = TrackedText(text)
    made._uses = uses  # noqa: SLF001 - of this module
    return made


def number_of(number: int, uses: Uses) -> TrackedInt:
    """Return a number that knows where it comes from."""
    made = TrackedInt(number)
    made._uses = uses  # noqa: SLF001 - of this module
    return made


def track(tree: Tree, recorder: Recorder, path: str = "") -> Any:
    """Return the value of a tree for templates. path: its dotted key."""
    own = (Use(key=path, layer=tree.origin.layer, version=tree.origin.version),) if path else _NONE
    if isinstance(tree, Branch):
        below = {key: one for key, one in sorted(tree.children.items()) if not isinstance(one, Gone)}
        items = {key: track(one, recorder, f"{path}.{key}" if path else key) for key, one in below.items()}
        keys = {key: _use_of(one, f"{path}.{key}" if path else key) for key, one in below.items()}
        made = TrackedMap(items, recorder=recorder, keys=keys)
        made._path, made._own = path, own  # noqa: SLF001 - of this module
        return made
    if isinstance(tree, Row):
        row = TrackedList(track(one, recorder, f"{path}.{number}") for number, one in enumerate(tree.items))
        row._own = own  # noqa: SLF001 - of this module
        row._items = tuple(_use_of(one, f"{path}.{number}") for number, one in enumerate(tree.items))  # noqa: SLF001
        return row
    if isinstance(tree, Gone):
        return None
    if isinstance(tree.value, bool):
        return tree.value
    return number_of(tree.value, own) if isinstance(tree.value, int) else text_of(tree.value, own)


def _use_of(tree: Tree, path: str) -> Uses:
    return (Use(key=path, layer=tree.origin.layer, version=tree.origin.version),)


def own_uses(value: Any) -> Uses:
    """Return what a value by itself comes from; of a map or list: not what its items do."""
    if isinstance(value, (TrackedText, TrackedInt)):
        return value._uses  # noqa: SLF001 - of this module
    return value._own if isinstance(value, (TrackedMap, TrackedList)) else _NONE  # noqa: SLF001 - of this module


def items_of(value: Any) -> tuple[Uses, ...]:
    """Return, for each item of a map or list, who put it there; of text, who gave it."""
    if isinstance(value, TrackedMap):
        return tuple(value._keys.values())  # noqa: SLF001 - of this module
    return value._items if isinstance(value, TrackedList) else ()  # noqa: SLF001 - of this module


def all_uses(value: Any) -> Iterator[Use]:
    """Yield what a value and all below it come from."""
    yield from own_uses(value)
    if isinstance(value, TrackedMap):
        for key in dict.__iter__(value):
            yield from value._keys.get(key, _NONE)  # noqa: SLF001 - of this module
            yield from all_uses(dict.__getitem__(value, key))
    elif isinstance(value, TrackedList):
        for one in value._items:  # noqa: SLF001 - of this module
            yield from one
        for one in value:
            yield from all_uses(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from all_uses(one)


def retrack(value: Any, uses: Uses) -> Any:
    """Return what an expression made, knowing what it was made of."""
    if isinstance(value, bool) or value is None:
        return value
    if type(value) in {str, TrackedText}:
        return text_of(value, uses)
    if type(value) in {int, TrackedInt}:
        return number_of(value, uses)
    if type(value) is list:
        row = TrackedList(value)
        row._own = uses  # noqa: SLF001 - of this module
        return row
    return value
