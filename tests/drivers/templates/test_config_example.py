"""The example of layers: every line of every file on every node has the origin that it must have, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nebh.drivers.templates.child import RenderHead, render_in_child
from nebh.model.config_layer import ConfigLayer, NodeFacts, Part, check_layer
from nebh.model.errors import SpecErrors
from nebh.model.rendering import LineOrigin
from nebh.planning.config_bundle import encode_bundle, make_bundle, resolve
from nebh.planning.config_merge import explain, find_tree, to_plain
from nebh.planning.config_values import show_value, split_key
from nebh.spec.layers import parse_layer
from nebh.spec.parse import parse_spec

FOLDER = Path(__file__).parents[3] / "examples" / "config"
NODES = (
    NodeFacts(name="node1", groups=("eu",)),
    NodeFacts(name="node2", groups=("eu", "front")),
    NodeFacts(name="node3"),
)
SPEC = parse_spec((FOLDER / "shop.yaml").read_text(), file="shop.yaml", base=str(FOLDER))
TEMPLATES = {
    "shop.conf.j2": (FOLDER / "shop.conf.j2").read_text(),
    "upstreams.j2": (FOLDER / "upstreams.j2").read_text(),
    "/etc/shop/feature.json": SPEC.files[1].text,
}
NAMES = {
    "cluster": "cluster",
    "group-eu": "group/eu",
    "group-front": "group/front",
    "machine-base": "machine/base",
    "machine-linux": "machine/linux",
    "node-node2": "node/node2",
    "service-shop-node-node2": "service/shop/node/node2",
    "template-web": "template/web",
}


def layers() -> list[ConfigLayer]:
    found = []
    for number, path in enumerate(sorted((FOLDER / "layers").glob("*.yaml")), start=1):
        if path.stem not in NAMES:
            continue  # of the other service of the example
        text = parse_layer(path.read_text(), file=path.name)
        name = check_layer(NAMES[path.stem])
        part = Part(layer=name, version=number, values=text.values, merge=text.merge, extends=text.extends)
        found.append(ConfigLayer(cluster_id="c", signed_at=1, part=part, group_order=text.group_order))
    return found


LAYERS = layers()
BUNDLE = make_bundle(SPEC.config, cluster_id="c", service="shop", layers=LAYERS, templates=TEMPLATES)
VERSIONS = {one.part.layer: one.part.version for one in LAYERS} | {"spec": 0, "default": 0, "nebh": 0}
FILES = tuple((one.file.path, one.file.template) for one in SPEC.files)


@pytest.fixture(scope="module")
def rendered():
    data, _ = encode_bundle(BUNDLE)
    head = RenderHead(cluster_id="c", service="shop", files=FILES, nodes=NODES, origins=True)
    found = render_in_child(head, data)
    assert not [one.problems for one in found if one.problems]
    return {one.node: {file.path: file for file in one.files} for one in found}


def shown(line: LineOrigin) -> tuple[str, str, str]:
    values = " ".join(f"{one.key}={one.layer}" for one in line.values)
    conditions = " ".join(f"{one.key}={one.layer}" for one in line.conditions)
    return f"{line.template}:{line.line}", values, conditions


NODE2 = [
    ("# shop on node2", "shop.conf.j2:1", "name=spec nebh.node=nebh", ""),
    ("workers = 8", "shop.conf.j2:2", "workers=node/node2", ""),
    ("ratio = 0.25", "shop.conf.j2:3", "ratio=default", ""),
    ("log.level = debug", "shop.conf.j2:4", "log.level=service/shop/node/node2", ""),
    (
        "log.to = stdout",
        "shop.conf.j2:6",
        "log.targets.0=service/shop/node/node2",
        "log.targets=service/shop/node/node2",
    ),
    ("tls = on", "shop.conf.j2:9", "", "tls=group/front"),
    ("", "shop.conf.j2:13", "", ""),
    ("[upstream cache]", "upstreams.j2:2", "upstreams.0.name=template/web", "upstreams=spec"),
    (
        "address = cache.nebh.internal:6379",
        "upstreams.j2:3",
        "upstreams.0.host=template/web upstreams.0.port=template/web",
        "upstreams=spec",
    ),
    ("[upstream db]", "upstreams.j2:2", "upstreams.1.name=spec", "upstreams=spec"),
    (
        "address = db.nebh.internal:5432",
        "upstreams.j2:3",
        "upstreams.1.host=spec upstreams.1.port=spec",
        "upstreams=spec",
    ),
]


def test_each_line_of_one_file_is_from_where_it_is_from(rendered):
    file = rendered["node2"]["/etc/shop/shop.conf"]
    lines = list(zip(file.text.split("\n"), file.lines, strict=False))
    assert [(text, *shown(line)) for text, line in lines] == NODE2


@pytest.mark.parametrize("node", [one.name for one in NODES])
@pytest.mark.parametrize("path", [path for path, _ in FILES])
def test_every_line_of_every_file_has_an_origin_that_is_true(rendered, node, path):
    file = rendered[node][path]
    facts = next(one for one in NODES if one.name == node)
    tree = resolve(BUNDLE, facts)
    texts = file.text.split("\n")[:-1]
    assert len(texts) == len(file.lines)
    for text, line in zip(texts, file.lines, strict=True):
        source = TEMPLATES[line.template].split("\n")[line.line - 1]
        literal = source.split("{{")[0].split("{%")[0]
        assert text.startswith(literal), (text, source)
        for use in (*line.values, *line.conditions):
            # the layer that is named gave this key, in this version, and what stands there is its value
            assert use.version == VERSIONS[use.layer], use
            rows = {row.key: row for row in explain(tree, use.key)}
            if use.key in rows:
                assert rows[use.key].origin.layer == use.layer, use
        for use in line.values:
            if use.layer == "nebh":  # the node's signed record
                assert use.key != "nebh.node" or node in text, (text, use)
                continue
            value = _value(tree, use.key)
            if not isinstance(value, (dict, list)):
                # one expression of several lines: its values are said of each of them
                assert show_value(value) in (file.text if "tojson" in source else text), (text, use)


def _value(tree, key):
    found = find_tree(tree, split_key(key))
    assert found is not None, key
    return to_plain(found)


def test_the_groups_would_contradict_each_other_without_the_declared_order():
    bundle = make_bundle(
        SPEC.config,
        cluster_id="c",
        service="shop",
        layers=[one for one in LAYERS if one.part.layer != "cluster"],
        templates=TEMPLATES,
    )
    with pytest.raises(SpecErrors, match="group/eu says warning, group/front says info"):
        resolve(bundle, NODES[1])
