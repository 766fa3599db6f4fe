"""Every line of every file of the examples: what `explain` says of it is what happens when that value is changed.

The oracle knows nothing of how origins are found: it changes one value in one layer, renders again, and looks which
lines are other ones now.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nebh.cli.config_bundles import read_templates
from nebh.model.config_layer import Bundle, ConfigLayer, NodeFacts, Part
from nebh.model.rendering import LineOrigin, RenderedFile
from nebh.planning.config_bundle import make_bundle
from nebh.planning.config_render import Renderer
from nebh.spec.layers import parse_layer
from nebh.spec.parse import parse_spec

pytestmark = pytest.mark.slow

KEY = re.compile(r"^(\w+):", re.MULTILINE)
EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(
    one for one in EXAMPLES.rglob("*.yaml") if {"files", "name", "argv"} <= set(KEY.findall(one.read_text()))
)
NODES = (
    NodeFacts(name="node1", groups=("eu",)),
    NodeFacts(name="node2", groups=("eu", "front")),
    NodeFacts(name="node3", groups=()),
)
PARTS = r"\{% block .*?endblock %\}|\{\{.*?\}\}|\{%.*?%\}"
KINDS = ("cluster", "group", "node", "machine", "template")
Files = dict[tuple[str, str], RenderedFile]


@dataclass(frozen=True)
class Example:
    bundle: Bundle
    files: tuple[tuple[str, str], ...]


def layer_name(stem: str, services: set[str]) -> str:
    """Return `service/shop/node/node2` for `service-shop-node-node2`."""
    kind, _, rest = stem.partition("-")
    if kind != "service":
        return f"{kind}/{rest}" if rest else kind
    service = next(one for one in services if rest == one or rest.startswith(f"{one}-"))
    where, _, name = rest[len(service) + 1 :].partition("-")
    return f"service/{service}/{where}/{name}" if where else f"service/{service}"


@functools.cache
def load(path: Path) -> Example:
    spec = parse_spec(path.read_text(), file=path.name, base=str(path.parent))
    services = {re.search(r"^name: (\S+)", one.read_text(), re.MULTILINE)[1] for one in SPECS}
    layers = []
    for number, one in enumerate(sorted((path.parent / "layers").glob("*.yaml")), start=1):
        said = parse_layer(one.read_text(), file=one.name)
        part = Part(
            layer=layer_name(one.stem, services),
            version=number,  # each its own, so that a wrong one shows
            values=said.values,
            merge=said.merge,
            extends=said.extends,
        )
        layers.append(ConfigLayer(cluster_id="c", signed_at=1, part=part, group_order=said.group_order))
    bundle = make_bundle(
        spec.config,
        cluster_id="c",
        service=spec.name,
        layers=layers,
        templates=read_templates(spec, base=path.parent),
    )
    return Example(bundle=bundle, files=tuple((one.file.path, one.file.template) for one in spec.files))


def render(example: Example, bundle: Bundle, *, origins: bool = False) -> Files | None:
    """Return the files on every node, None where the values are refused."""
    found: Files = {}
    for facts in NODES:
        made = Renderer(bundle).render(example.files, facts, origins=origins)
        if made.problems:
            return None
        found |= {(facts.name, one.path): one for one in made.files}
    return found


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from leaves(one, (*path, number))
    else:
        yield path


def altered(value: Any) -> list[Any]:
    """Return other values of the same type, of which one may fit the schema."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return ["debug", "info", "0.75", f"{value}x"]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    holder = functools.reduce(lambda inner, key: inner[key], path[:-1], copy)
    holder[path[-1]] = new
    return copy


def at(value: Any, path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda inner, key: inner[key], path, value)


def general(key: str) -> str:
    """Return a dotted key without the places of items: they move when lists are merged."""
    return ".".join(word for word in key.split(".") if not word.isdigit())


def changed_lines(before: str, after: str) -> tuple[set[int], bool]:
    """Return (the lines of `before` that are not as they were, whether the number of lines changed)."""
    was, now = before.split("\n"), after.split("\n")
    found: set[int] = set()
    for what, first, last, _, _ in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        if what in ("replace", "delete"):
            found |= set(range(first, last))
    return found, len(was) != len(now)


def sources(bundle: Bundle) -> Iterator[tuple[str, int, str, list[Bundle]]]:
    """Yield each value of each layer: (layer, version, dotted key without places, bundles in which it is another)."""
    for number, part in enumerate(bundle.parts):
        for path in leaves(part.values):
            old = at(part.values, path)
            made = [
                replace(
                    bundle,
                    parts=tuple(
                        replace(one, values=put(one.values, path, new)) if place == number else one
                        for place, one in enumerate(bundle.parts)
                    ),
                )
                for new in altered(old)
                if new != old
            ]
            yield part.layer, part.version, general(".".join(map(str, path))), made
    for key, rule in bundle.schema.items():
        if rule.default is not None:
            rules = [replace(rule, default=new) for new in altered(rule.default) if new != rule.default]
            yield "default", 0, key, [replace(bundle, schema={**bundle.schema, key: one}) for one in rules]


def named(origin: LineOrigin, *, values: bool) -> set[tuple[str, int, str]]:
    uses = origin.values if values else (*origin.values, *origin.conditions)
    return {(one.layer, one.version, general(one.key)) for one in uses}


def holders(who: tuple[str, int, str]) -> set[tuple[str, int, str]]:
    """Return a value and the lists and maps of its layer that it is a part of: how many items those have it decides too."""
    layer, version, key = who
    words = key.split(".")
    return {(layer, version, ".".join(words[:count])) for count in range(1, len(words) + 1)}


def test_the_examples_hold_every_kind_of_layer() -> None:
    layers = {part.layer for path in SPECS for part in load(path).bundle.parts}
    assert len(SPECS) >= 2
    assert {one.split("/")[0] for one in layers} >= {*KINDS, "service", "spec"}
    assert {one.split("/")[2] for one in layers if one.count("/") == 3} == {"group", "node"}
    assert sum(bool(part.extends) for path in SPECS for part in load(path).bundle.parts) >= 5


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_line_names_exactly_the_values_that_change_it(path: Path) -> None:
    example = load(path)
    files = render(example, example.bundle, origins=True)
    assert files is not None
    seen: dict[tuple[tuple[str, str], int], set[tuple[str, int, str]]] = {}
    tried = 0
    for layer, version, key, others in sources(example.bundle):
        who = (layer, version, key)
        for other in others:
            after = render(example, other)
            if after is None:
                continue  # the schema does not take it
            tried += 1
            for place, file in files.items():
                changed, moved = changed_lines(file.text, after[place].text)
                for number in changed:
                    if number >= len(file.lines):
                        continue  # behind the last line feed
                    origin = file.lines[number]
                    assert named(origin, values=False) & holders(who), (
                        place,
                        number,
                        file.text.split("\n")[number],
                        who,
                    )
                    if not moved:
                        seen.setdefault((place, number), set()).add(who)
    assert tried >= 15
    # and the other way round: what is said to stand in a line changes that line, in that line alone
    for place, file in files.items():
        for number, origin in enumerate(file.lines):
            said = {one for one in named(origin, values=True) if one[0] != "nebh"}
            structural = said - leaf_keys(example.bundle)
            known = {holder for who in leaf_keys(example.bundle) for holder in holders(who)}
            assert structural <= known, (place, number, structural - known)
            missing = said - structural - seen.get((place, number), set())
            assert all(moves(example, files, place, one) for one in missing), (place, number, missing)


@functools.cache
def _leaf_keys(path: Path) -> frozenset[tuple[str, int, str]]:
    return frozenset((layer, version, key) for layer, version, key, _ in sources(load(path).bundle))


def leaf_keys(bundle: Bundle) -> frozenset[tuple[str, int, str]]:
    return next(_leaf_keys(path) for path in SPECS if load(path).bundle is bundle)


def moves(example: Example, files: Files, place: tuple[str, str], who: tuple[str, int, str]) -> bool:
    """Tell whether changing a value changes how many lines a file has: of a truth, or of what lines are sorted by."""
    for layer, version, key, others in sources(example.bundle):
        for other in others if (layer, version, key) == who else ():
            after = render(example, other)
            if after is not None and after[place].text != files[place].text:
                return True
    return False


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_each_line_stands_where_its_template_says(path: Path) -> None:
    """Without a value a line is the template's, letter by letter; with one, what stands around it is."""
    example = load(path)
    files = render(example, example.bundle, origins=True)
    assert files is not None
    for place, file in files.items():
        texts = file.text.split("\n")[: len(file.lines)]
        assert len(file.lines) == file.text.count("\n") + (not file.text.endswith("\n")), "an origin for every line"
        for text, origin in zip(texts, file.lines, strict=True):
            source = example.bundle.templates[origin.template].split("\n")[origin.line - 1]
            if not origin.values:
                assert text == re.sub(r"\{%.*?%\}", "", source), (place, text, origin)
                continue
            literal = [re.escape(one) for one in re.split(PARTS, source)]
            if "tojson" not in source:  # of many lines
                assert re.fullmatch(".*".join(literal), text), (place, text, source)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_what_the_node_is_stands_in_the_lines_that_say_so(path: Path) -> None:
    example = load(path)
    files = render(example, example.bundle, origins=True)
    assert files is not None
    for facts in NODES:
        renamed = Renderer(example.bundle).render(example.files, replace(facts, name="another"), origins=False)
        for one in renamed.files:
            file = files[facts.name, one.path]
            if not any("node/" in part.layer and facts.name in part.layer for part in example.bundle.parts):
                changed, _ = changed_lines(file.text, one.text)
                said = {
                    n for n, origin in enumerate(file.lines) if ("nebh", 0, "nebh.node") in named(origin, values=True)
                }
                assert changed == said
