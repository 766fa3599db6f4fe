"""Layers become values: what wins is declared, what cannot be decided is an error that names both, and nothing of
where a value came from is lost."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.config_layer import Bundle, ConfigLayer, ConfigSpec, KeyRule, NodeFacts, Part
from nebh.model.errors import SpecErrors
from nebh.planning.config_bundle import compose, make_bundle, resolve
from nebh.planning.config_merge import Gone, Leaf, explain, leaves_of, merge_parts, to_plain
from nebh.planning.config_order import line_up
from nebh.planning.config_values import drop_value, find_value, put_value, walk_leaves

NODE = NodeFacts(name="n1", groups=("eu", "front"))


def part(layer: str, values: dict[str, Any] | None = None, version: int = 1, **more: Any) -> Part:
    return Part(layer=layer, version=version, values=values or {}, **more)


def bundle(*parts: Part, schema: dict[str, KeyRule] | None = None, order: tuple[str, ...] = ()) -> Bundle:
    ordered = tuple(sorted(parts, key=lambda one: one.layer))
    return Bundle(
        format=1, cluster_id="c", service="web", parts=ordered, group_order=order, schema=schema or {}, templates={}
    )


def values_of(*parts: Part, facts: NodeFacts = NODE, **more: Any) -> Any:
    return to_plain(resolve(bundle(*parts, **more), facts))


def problems_of(*parts: Part, facts: NodeFacts = NODE, **more: Any) -> list[str]:
    return [str(one) for one in compose(bundle(*parts, **more), facts).problems]


ALL_SIX = (
    part("cluster", {"k": 1}),
    part("group/front", {"k": 2}),
    part("node/n1", {"k": 3}),
    part("service/web", {"k": 4}),
    part("service/web/group/front", {"k": 5}),
    part("service/web/node/n1", {"k": 6}),
)


@pytest.mark.parametrize("count", range(1, 7))
def test_each_layer_overrides_those_below_it(count: int) -> None:
    found = resolve(bundle(*ALL_SIX[:count]), NODE)
    (row,) = explain(found, "k")
    assert row.value == count
    assert row.origin.layer == ALL_SIX[count - 1].layer
    assert [one.value for one in row.overrode] == list(range(1, count))


def test_layers_of_other_groups_nodes_and_services_say_nothing_here() -> None:
    others = (part("group/back", {"k": 9}), part("node/n2", {"k": 9}), part("service/db", {"k": 9}))
    assert values_of(ALL_SIX[0], *others) == {"k": 1}


def test_maps_merge_and_lists_are_replaced_unless_declared() -> None:
    below = part("cluster", {"db": {"host": "a", "port": 1}, "list": [1, 2]})
    assert values_of(below, part("node/n1", {"db": {"port": 2}, "list": [3]})) == {
        "db": {"host": "a", "port": 2},
        "list": [3],
    }
    assert values_of(below, part("node/n1", {"list": [3]}, merge={"list": "append"}))["list"] == [1, 2, 3]
    assert values_of(below, part("node/n1", {"list": [3]}, merge={"list": "prepend"}))["list"] == [3, 1, 2]
    assert values_of(below, part("node/n1", {"db": {"port": 2}}, merge={"db": "replace"}))["db"] == {"port": 2}
    assert values_of(below, part("node/n1", merge={"db.host": "delete"}))["db"] == {"port": 1}


def test_lists_of_maps_merge_by_a_key() -> None:
    below = part("cluster", {"up": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]})
    above = part("node/n1", {"up": [{"name": "b", "port": 3}, {"name": "c", "port": 4}]}, merge={"up": "by name"})
    tree = resolve(bundle(below, above), NODE)
    assert [(one["name"], one["port"]) for one in to_plain(tree)["up"]] == [("a", 1), ("b", 3), ("c", 4)]
    assert {row.key: row.origin.layer for row in explain(tree, "up") if row.key != "up"}["up.0.port"] == "cluster"
    assert {row.key: row.origin.layer for row in explain(tree, "up") if row.key != "up"}["up.1.port"] == "node/n1"


def test_the_schema_may_declare_the_strategy() -> None:
    schema = {"list": KeyRule(type="list", merge="append")}
    assert values_of(part("cluster", {"list": [1]}), part("node/n1", {"list": [2]}), schema=schema) == {"list": [1, 2]}


def test_explain_tells_of_what_was_deleted_and_said_again() -> None:
    tree = resolve(
        bundle(
            part("cluster", {"k": "a"}, version=3),
            part("group/front", merge={"k": "delete"}, version=4),
            part("node/n1", {"k": "b"}, version=5),
        ),
        NODE,
    )
    (row,) = explain(tree, "k")
    assert (row.value, str(row.origin)) == ("b", "node/n1 version 5")
    assert [(one.value, str(one.origin)) for one in row.overrode] == [
        ("a", "cluster version 3"),
        (None, "group/front version 4"),
    ]
    assert explain(tree, "nothing.here") == ()


def test_two_groups_that_contradict_each_other_are_an_error_naming_both() -> None:
    one, two = part("group/eu", {"log": {"level": "info"}}), part("group/front", {"log": {"level": "debug"}})
    (problem,) = problems_of(one, two)
    assert "log.level: group/eu says info, group/front says debug: neither is above the other" in problem
    assert "group_order" in problem
    assert values_of(one, two, order=("eu", "front")) == {"log": {"level": "debug"}}
    assert values_of(one, two, order=("front", "eu")) == {"log": {"level": "info"}}
    assert values_of(one, part("group/front", {"log": {"level": "info", "to": "x"}})) == {
        "log": {"level": "info", "to": "x"}
    }
    assert values_of(one, two, facts=NodeFacts(name="n1", groups=("eu",))) == {"log": {"level": "info"}}


def test_groups_contradict_by_shape_deletion_and_service_layers_too() -> None:
    assert problems_of(part("group/eu", {"a": 1}), part("group/front", {"a": {"b": 1}}))
    assert problems_of(part("group/eu", {"a": {"b": 1}}), part("group/front", merge={"a": "delete"}))
    assert problems_of(part("service/web/group/eu", {"a": 1}), part("service/web/group/front", {"a": 2}))
    assert not problems_of(part("group/eu", {"a": 1}), part("service/web/group/front", {"a": 2}))


def test_the_spec_and_the_signed_layer_of_a_service_are_one_rank() -> None:
    (problem,) = problems_of(Part(layer="spec", values={"k": 1}), part("service/web", {"k": 2}))
    assert "service/web says 2" in problem
    assert "spec says 1" in problem


def test_templates_extend_templates_and_each_is_merged_once() -> None:
    chain = (
        part("machine/base", {"ntp": "a", "ssh": 22, "fs": "ext4"}),
        part("machine/linux", {"ntp": "b"}, extends=("machine/base",)),
        part("template/db", {"fs": "xfs"}, extends=("machine/linux",)),
        part("service/web", {"name": "web"}, extends=("template/db",)),
    )
    tree = resolve(bundle(*chain), NODE)
    assert to_plain(tree) == {"ntp": "b", "ssh": 22, "fs": "xfs", "name": "web"}
    (row,) = explain(tree, "ntp")
    assert [row.origin.layer, *(one.origin.layer for one in row.overrode)] == ["machine/linux", "machine/base"]
    # a node that extends what its group extends already does not undo what the group changed
    again = (
        chain[0],
        part("group/eu", {"ssh": 2222}, extends=("machine/base",)),
        part("node/n1", extends=("machine/base",)),
    )
    assert to_plain(resolve(bundle(*again), NODE))["ssh"] == 2222


def test_groups_may_share_a_template_and_differ_from_it() -> None:
    base = part("machine/base", {"ntp": "a"})
    one = part("group/eu", {"x": 1}, extends=("machine/base",))
    two = part("group/front", {"ntp": "b"}, extends=("machine/base",))
    assert values_of(base, one, two) == {"ntp": "b", "x": 1}
    other = part("machine/other", {"ntp": "c"})
    assert problems_of(base, other, one, part("group/front", extends=("machine/other",)))


def test_a_circle_and_an_unknown_template_are_named() -> None:
    circle = (
        part("template/a", extends=("template/b",)),
        part("template/b", extends=("template/a",)),
        part("service/web", extends=("template/a", "template/no")),
    )
    said = "\n".join(problems_of(*circle))
    assert "it extends itself: template/a -> template/b -> template/a" in said
    assert "it extends template/no, which does not exist" in said
    assert "cannot extend template/a" in "\n".join(problems_of(circle[0], part("node/n1", extends=("template/a",))))


def test_incompatible_shapes_are_an_error_unless_replaced() -> None:
    below = part("cluster", {"db": {"host": "a"}, "l": [1], "s": "x"}, version=7)
    said = "\n".join(problems_of(below, part("node/n1", {"db": "b", "l": 2, "s": [1]})))
    assert "db: it is text here and a map in cluster version 7" in said
    assert "l: it is a number here and a list in cluster version 7" in said
    assert "s: it is a list here and text in cluster version 7" in said
    assert values_of(below, part("node/n1", {"db": "b"}, merge={"db": "replace"}))["db"] == "b"


SCHEMA = {
    "host": KeyRule(type="text", required=True, pattern="[a-z.]+"),
    "port": KeyRule(type="port", default=80),
    "level": KeyRule(type="text", enum=("info", "debug")),
    "ratio": KeyRule(type="number", low=0, high=1),
    "on": KeyRule(type="bool"),
    "up": KeyRule(type="list", items="text"),
}


def test_every_problem_with_the_schema_is_said_at_once() -> None:
    wrong = part("node/n1", {"port": 70000, "level": "dbug", "ratio": "1.5", "on": "true", "up": ["a", 1]}, version=2)
    said = problems_of(wrong, schema=SCHEMA)
    assert len(said) == 6
    text = "\n".join(said)
    assert "config of web on n1: host: it is required, and no layer gives it" in text
    assert "layer node/n1 version 2: port: a number `70000` where a port from 1 to 65535 is needed" in text
    assert "did you mean `debug`?" in text
    assert "1.5 is above 1" in text
    assert "write it without quotes" in text
    assert "up: item 1: a number `1` where text is needed" in text


def test_defaults_have_an_origin() -> None:
    tree = resolve(bundle(part("cluster", {"host": "a"}), schema=SCHEMA), NODE)
    (row,) = explain(tree, "port")
    assert (row.value, row.origin.layer) == (80, "default")


@pytest.mark.parametrize(
    ("values", "merge", "said"),
    [
        ({"a": None}, {}, "it is empty"),
        ({"a": 1.5}, {}, "not a whole number"),
        ({"a": 2**53}, {}, "not below 2"),
        ({"a": "x\0"}, {}, "NUL"),
        ({"a": "\ud800"}, {}, "not valid text"),
        ({"a.b": 1}, {}, "cannot be a key"),
        ({"nebh": 1}, {}, "stands for the node"),
        ({"a": 1}, {"a": "sum"}, "is not one of"),
        ({"a": 1}, {"a": "delete"}, "deleted and has a value"),
        ({}, {"a": "append"}, "has no value here"),
        ({"a": 1}, {"a": "append"}, "for lists"),
        ({"a": [{"n": 1}, {"n": 1}]}, {"a": "by n"}, "two items have the n 1"),
        ({"a": [{"m": 1}]}, {"a": "by n"}, "no `n` to merge by"),
        ({"a": [1]}, {"a": "by n"}, "lists of maps"),
    ],
)
def test_a_bad_layer_is_refused_by_name(values: Any, merge: Any, said: str) -> None:
    layer = ConfigLayer(cluster_id="c", signed_at=1, part=part("cluster", values, merge=merge))
    with pytest.raises(SpecErrors, match=re.escape(said)) as caught:
        make_bundle(ConfigSpec(), cluster_id="c", service="web", layers=[layer], templates={})
    assert "layer cluster version 1" in str(caught.value)


# -- properties

KEYS = st.sampled_from(["a", "b", "c", "d"])
TREES = st.recursive(
    st.one_of(st.integers(0, 9), st.booleans(), st.text("xyz", max_size=3), st.lists(st.integers(0, 9), max_size=3)),
    lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3),
    max_leaves=8,
)
MAPS = st.dictionaries(KEYS, TREES, max_size=4)


def same(one: Any, other: Any) -> bool:
    """1 and true are different values."""
    return repr(one) == repr(other)


@given(MAPS)
def test_one_layer_is_its_own_values_and_their_origin(values: dict[str, Any]) -> None:
    tree, problems = merge_parts((part("cluster", values),), schema={})
    assert not problems
    assert to_plain(tree) == values
    assert all(leaf.origin.layer == "cluster" for path, leaf in leaves_of(tree) if path)


@given(st.lists(MAPS, min_size=1, max_size=5))
def test_every_value_is_what_its_origin_says_and_nothing_above_it_says_more(layers: list[dict[str, Any]]) -> None:
    parts = tuple(part(f"l{number}", values) for number, values in enumerate(layers))
    tree, problems = merge_parts(parts, schema={})
    if problems:
        return
    for path, leaf in leaves_of(tree):
        if isinstance(leaf, Leaf) and not any(word.isdecimal() for word in path):
            said = [(one.layer, find_value(one.values, path)) for one in parts]
            spoken = [(layer, value) for layer, value in said if value is not None]
            assert spoken[-1][0] == leaf.origin.layer
            assert same(spoken[-1][1], leaf.value)
            assert [one.origin.layer for one in leaf.overrode] == [layer for layer, _ in spoken[:-1]]


@given(MAPS, MAPS, st.booleans())
def test_peers_without_a_contradiction_give_the_same_in_either_order(one: Any, two: Any, swapped: bool) -> None:
    names = ("front", "eu") if swapped else ("eu", "front")
    held = bundle(part("group/eu", one), part("group/front", two))
    composed = compose(held, NODE)
    ordered = compose(bundle(part("group/eu", one), part("group/front", two), order=names), NODE)
    if not composed.problems:
        assert to_plain(composed.tree) == to_plain(ordered.tree)


@given(st.lists(MAPS, min_size=2, max_size=6), st.sets(KEYS, min_size=1, max_size=2))
def test_leaving_out_what_a_schema_does_not_name_changes_nothing_of_what_it_names(layers: Any, keys: set[str]) -> None:
    schema = {key: KeyRule(type="map") for key in keys}
    names = [one.layer for one in ALL_SIX]
    held = [
        ConfigLayer(cluster_id="c", signed_at=1, part=part(name, {key: {"x": one} for key, one in values.items()}))
        for name, values in zip(names, layers, strict=False)
        if not name.startswith("service/")
    ]
    made = make_bundle(ConfigSpec(schema=schema), cluster_id="c", service="web", layers=held, templates={})
    whole = make_bundle(ConfigSpec(), cluster_id="c", service="web", layers=held, templates={})
    small, large = compose(made, NODE), compose(whole, NODE)
    if not small.problems and not large.problems:
        assert to_plain(small.tree) == {key: one for key, one in to_plain(large.tree).items() if key in keys}


@given(MAPS)
def test_replacing_everything_leaves_a_trace_of_what_was_there(values: dict[str, Any]) -> None:
    keys = tuple(values)
    above = part("node/n1", {key: {"new": 1} for key in keys}, merge=dict.fromkeys(keys, "replace"))
    tree, problems = merge_parts((part("cluster", values), above), schema={})
    assert not problems
    assert to_plain(tree) == {key: {"new": 1} for key in keys}
    gone = [leaf for _, leaf in leaves_of(tree) if isinstance(leaf, Gone)]
    lost = [path for path, _ in walk_leaves(values) if len(path) > 1]
    assert len(gone) == len({path[:2] for path in lost})
    assert all(leaf.origin.layer == "node/n1" for leaf in gone)


@given(MAPS, st.lists(KEYS, min_size=1, max_size=3), st.integers())
def test_what_is_put_is_found_and_what_is_dropped_is_not(values: Any, path: list[str], value: int) -> None:
    put = put_value(values, tuple(path), value)
    assert find_value(put, tuple(path)) == value
    assert find_value(drop_value(put, tuple(path)), tuple(path)) is None


def test_the_order_is_the_declared_one() -> None:
    lined, problems = line_up(bundle(*ALL_SIX), NODE)
    assert not problems
    assert [one.layer for one in lined] == [one.layer for one in ALL_SIX]
