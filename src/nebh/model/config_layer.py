"""Layers of configuration: versioned sets of values, the templates they extend, the types a service asks for.

A layer's name is a path: `cluster`, `group/G`, `node/N`, `service/S`, `service/S/group/G`, `service/S/node/N`, and for
templates that layers extend `machine/T` and `template/T`. `spec` is what a service's own spec file says: a part of the
layer `service/S` that is signed with the release.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nebh.model.config import ConfigFile
from nebh.model.errors import BadInput
from nebh.model.names import is_name

SPEC_LAYER = "spec"
CLUSTER_LAYER = "cluster"
DEFAULT_LAYER = "default"
SCALARS = ("text", "int", "number", "bool", "port")
TYPES = (*SCALARS, "list", "map")
"""Kinds of values that a schema knows."""
KEPT_VERSIONS = 20
"""Versions of each layer that stay signed."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value comes from. version: of the layer, 0 for `spec` (the release's own) and `default` (its schema)."""

    layer: str
    version: int = 0

    def __str__(self) -> str:
        return f"{self.layer} version {self.version}" if self.version else self.layer


@dataclass(frozen=True, kw_only=True)
class Part:
    """One layer or template as a bundle carries it. values: str, int, bool, lists and dicts of them. merge: by dotted
    key how this layer's value meets what lies below: `replace`, `append`, `prepend`, `by NAME` or `delete`. extends:
    templates below it, the first lowest."""

    layer: str
    version: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, str] = field(default_factory=dict)
    extends: tuple[str, ...] = ()

    @property
    def origin(self) -> Origin:
        """What its values are said to come from."""
        return Origin(layer=self.layer, version=self.version)


@dataclass(frozen=True, kw_only=True)
class ConfigLayer:
    """A layer as an operator signs it: the TUF target `config/<layer>/<version>.json`. signed_at: Unix seconds;
    by, note: for people; group_order (layer `cluster` only): groups whose layers may contradict, the last one wins."""

    cluster_id: str
    signed_at: int
    part: Part
    group_order: tuple[str, ...] = ()
    by: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyRule:
    """What a service says of one key. type: text, int, number, bool, port, list or map; items: type of a list's items;
    default: None = none; low, high: bounds of numbers (None = none); merge: as in Part, where a layer says nothing."""

    type: str
    required: bool = False
    default: Any = None
    enum: tuple[Any, ...] = ()
    pattern: str = ""
    items: str = ""
    low: int | None = None
    high: int | None = None
    merge: str = ""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What the files of a release are rendered from, on every node: an object addressed by the SHA-256 of its canonical
    bytes. schema: by dotted key; not empty: a service sees no other keys. templates: text by name."""

    format: int
    cluster_id: str
    service: str
    parts: tuple[Part, ...]
    group_order: tuple[str, ...] = ()
    schema: dict[str, KeyRule] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What a template may know of the node it is rendered for: from its signed record alone."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConfigSpec:
    """The part `config:` of a service spec."""

    values: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, str] = field(default_factory=dict)
    extends: tuple[str, ...] = ()
    schema: dict[str, KeyRule] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """One of a spec's `files:`. source: absolute path of its template on this computer, "" where text stands in the
    spec; text: that text."""

    file: ConfigFile
    source: str = ""
    text: str = ""


_KINDS = frozenset({"group", "node", "machine", "template"})


def check_layer(name: str) -> str:
    """Return the name of a layer that can be signed. Raises BadInput."""
    words = name.split("/")
    good = name == CLUSTER_LAYER
    if len(words) == 2:
        good = words[0] in {*_KINDS, "service"} and is_name(words[1])
    elif len(words) == 4:
        good = words[0] == "service" and is_name(words[1]) and words[2] in {"group", "node"} and is_name(words[3])
    if not good:
        raise BadInput(
            f"cannot use {name!r} as a layer",
            hint="layers are cluster, group/G, node/N, service/S, service/S/group/G, service/S/node/N; "
            "templates are machine/T and template/T",
        )
    return name


def is_template(name: str) -> bool:
    """Tell whether a layer is one that others extend."""
    return name.startswith(("machine/", "template/"))
