"""Kinds of values that a spec file is made of. Parser, JSON Schema and reference page all read these same values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Text:
    """A string. `pattern`: whole-match regular expression; `expects`: the same in words. numbers: a plain decimal
    number stands for its own digits (`PORT: 8080`)."""

    expects: str
    pattern: str = ""
    numbers: bool = False
    longest: int = 4096


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A decimal integer, bounds included."""

    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Flag:
    """true or false; YAML 1.1's yes, no, on and off are refused."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a few words."""

    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes, written `64M`; bounds included."""

    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Milliseconds, written `10s`; bounds included."""

    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Processor cores, written `0.5`, kept as thousandths."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list. `unique`: no item twice. `instead`: the hint when something else than a list stands there."""

    item: Shape
    least: int = 0
    most: int = 256
    unique: bool = False
    instead: str = "write a list"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A mapping with free keys."""

    key: Text
    item: Shape
    most: int = 256


@dataclass(frozen=True, kw_only=True)
class Free:
    """A value of any kind: text, a whole number, true or false, a list or mapping of such. Other numbers stay text."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One key of a section. doc: one sentence for the reference page; default: as people write it."""

    key: str
    shape: Shape
    doc: str
    required: bool = False
    default: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A mapping with known keys. one_of: of these keys exactly one must be there."""

    fields: tuple[Field, ...] = field(default=())
    one_of: tuple[str, ...] = ()
    instead: str = "write `key: value` lines, indented below it"

    def find(self, key: str) -> Field | None:
        """Return the field with `key`, if there is one."""
        return next((one for one in self.fields if one.key == key), None)


@dataclass(frozen=True, kw_only=True)
class Either:
    """A short form (a scalar) or a long one (a section)."""

    short: Whole | Choice
    long: Section


Shape = Text | Whole | Flag | Choice | Size | Duration | Cores | Listing | Table | Section | Either | Free
