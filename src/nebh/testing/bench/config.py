"""Rendering and explaining files: 1,000 keys on 100 nodes, beside Jinja2 alone and a Python that does nothing."""

from __future__ import annotations

import sys
import time
from functools import partial

from nebh.drivers.templates.child import RenderHead, render_in_child
from nebh.host.run import Command, run
from nebh.model.config_layer import Bundle, NodeFacts, Part
from nebh.planning.config_bundle import encode_bundle, resolve
from nebh.planning.config_merge import explain
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, in_turns

NAME = "config"
TITLE = "Files from layers: 1,000 keys x 100 nodes"
KEYS, NODES, GROUPS = 1000, 100, 4
_TABLE = "rounds"


def make_bundle() -> tuple[Bundle, tuple[NodeFacts, ...]]:
    """Return a bundle of 1,000 keys in 6 layers, a tenth of them overridden at each, and 100 nodes that it is for."""
    sections = range(KEYS // 10)
    below = {f"s{one:03}": {f"k{number}": f"value {one} {number}" for number in range(10)} for one in sections}
    parts = [Part(layer="cluster", version=1, values=below)]

    def some(start: int, text: str) -> dict[str, dict[str, str]]:
        return {f"s{one:03}": {f"k{start % 10}": f"{text} {one}"} for one in sections}

    parts += [Part(layer=f"group/g{one}", version=1, values=some(1, f"group {one}")) for one in range(GROUPS)]
    parts += [Part(layer=f"node/n{one:03}", version=1, values={"s000": {"k2": f"node {one}"}}) for one in range(NODES)]
    parts += [
        Part(layer="spec", values=some(3, "spec")),
        Part(layer="service/web/group/g0", version=1, values=some(4, "service on group")),
        Part(layer="service/web/node/n000", version=1, values=some(5, "service on node")),
    ]
    text = "".join(f"s{one:03}.k{number} = {{{{ s{one:03}.k{number} }}}}\n" for one in sections for number in range(10))
    bundle = Bundle(
        format=1,
        cluster_id="c",
        service="web",
        parts=tuple(sorted(parts, key=lambda one: one.layer)),
        templates={"t": text},
    )
    nodes = tuple(NodeFacts(name=f"n{one:03}", groups=(f"g{one % GROUPS}",)) for one in range(NODES))
    return bundle, nodes


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    bundle, nodes = make_bundle()
    data, _ = encode_bundle(bundle)
    heads = {
        "one": RenderHead(cluster_id="c", service="web", files=(("/f", "t"),), nodes=nodes[:1]),
        "all": RenderHead(cluster_id="c", service="web", files=(("/f", "t"),), nodes=nodes),
        "explained": RenderHead(cluster_id="c", service="web", files=(("/f", "t"),), nodes=nodes, origins=True),
    }
    for number in Rounds(settings, usual=40, quick=2):
        took: dict[str, float] = {}
        in_turns(number, partial(_render, took, "all", heads, data), partial(_render, took, "explained", heads, data))
        in_turns(number, partial(_render, took, "one", heads, data), partial(_nothing, took))
        in_turns(number, partial(_jinja, took, bundle), partial(_values, took, bundle, nodes))
        record.add(_TABLE, round=number, pressure=machine.pressure(), **took)
    lines = sum(len(one.files[0].lines) for one in render_in_child(heads["explained"], data))
    record.add("exact", bundle=len(data), lines=lines)
    _figures(record)


def _figures(record: Record) -> None:
    for name, what in (
        ("one", "render for one node, as a node does: a caged child, start to end"),
        ("nothing", "a Python that does nothing"),
        ("all", "render for 100 nodes, in one child"),
        ("explained", "the same, with the origin of every line"),
        ("jinja", "Jinja2 alone, 100 times, values merged before"),
        ("values", "merge and explain 1,000 keys for 100 nodes, no files"),
    ):
        record.figure(name, what, table=_TABLE, columns=(name,))
    for name, what, columns in (
        ("explain_ratio", "render with origins / render", ("explained", "all")),
        ("jinja_ratio", "render for 100 nodes / Jinja2 alone", ("all", "jinja")),
    ):
        record.figure(name, what, unit="x", table=_TABLE, columns=columns, statistic="ratio")
    record.figure("bundle", "bytes of the bundle of 100 nodes", unit="", table="exact", columns=("bundle",))
    record.figure("lines", "lines with their origins", unit="", table="exact", columns=("lines",))


def _render(took: dict[str, float], name: str, heads: dict[str, RenderHead], data: bytes) -> None:
    begin = time.perf_counter()
    found = render_in_child(heads[name], data)
    took[name] = (time.perf_counter() - begin) * 1000
    assert not [one for one in found if one.problems]


def _nothing(took: dict[str, float]) -> None:
    begin = time.perf_counter()
    run(Command(argv=(sys.executable, "-s", "-c", "pass")))
    took["nothing"] = (time.perf_counter() - begin) * 1000


def _jinja(took: dict[str, float], bundle: Bundle) -> None:
    import jinja2

    values = bundle.parts[0].values
    begin = time.perf_counter()
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(bundle.templates["t"])
    for _ in range(NODES):
        template.render(values)
    took["jinja"] = (time.perf_counter() - begin) * 1000


def _values(took: dict[str, float], bundle: Bundle, nodes: tuple[NodeFacts, ...]) -> None:
    begin = time.perf_counter()
    for one in nodes:
        assert len(explain(resolve(bundle, one))) == KEYS
    took["values"] = (time.perf_counter() - begin) * 1000
