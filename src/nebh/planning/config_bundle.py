"""The bundle: what the files of a release are rendered from, as one canonical object, and as it is read on a node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from nebh.model.config import MAX_BUNDLE, ConfigBundle
from nebh.model.config_layer import SPEC_LAYER, Bundle, ConfigLayer, ConfigSpec, NodeFacts, Part, is_template
from nebh.model.errors import BadInput, Problem, SpecErrors
from nebh.planning.config_merge import Branch, merge_parts
from nebh.planning.config_order import check_chains, line_up, ranks_of
from nebh.planning.config_schema import check_schema, check_tree, fill_defaults, trim_part, unknown_keys
from nebh.planning.config_values import MAX_TEXT, check_part
from nebh.wire import codec

FORMAT = 1
MAX_TEMPLATES = 64
MAX_PARTS = 2000
MAX_TEMPLATE = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Composed:
    """The values of a service on one node. problems: () or they may not be used."""

    tree: Branch
    problems: tuple[Problem, ...]


def make_bundle(
    spec: ConfigSpec,
    *,
    cluster_id: str,
    service: str,
    layers: Iterable[ConfigLayer],
    templates: dict[str, str],
) -> Bundle:
    """Return the bundle of a service. layers: the newest version of each; those that can meet the service on no node
    are left out, and of the rest what its schema does not name. templates: text by name.

    Raises SpecErrors with everything that is wrong whatever node it is for.
    """
    held = {one.part.layer: one for one in layers}
    order = held["cluster"].group_order if "cluster" in held else ()
    own = Part(layer=SPEC_LAYER, values=spec.values, merge=spec.merge, extends=spec.extends)
    met = [own, *(one.part for name, one in sorted(held.items()) if _meets(name, service))]
    reached = _reach(met, {name: one.part for name, one in held.items() if is_template(name)})
    problems = [*check_schema(spec.schema, place="the spec")]
    for one in (*met, *reached):
        problems += check_part(one)
    if not problems:
        problems += check_chains((*met, *reached))
        for one in met if spec.schema else ():
            if one.layer == SPEC_LAYER or one.layer.startswith("service/"):
                problems += unknown_keys(one, spec.schema)
    if problems:
        raise SpecErrors(tuple(problems))
    parts = [trim_part(one, spec.schema) for one in (*met, *reached)]
    kept = tuple(sorted((one for one in parts if _matters(one)), key=lambda one: one.layer))
    return Bundle(
        format=FORMAT,
        cluster_id=cluster_id,
        service=service,
        parts=kept,
        group_order=order,
        schema=spec.schema,
        templates=templates,
    )


def _meets(layer: str, service: str) -> bool:
    if layer.startswith("service/"):
        return layer == f"service/{service}" or layer.startswith(f"service/{service}/")
    return not is_template(layer)


def _matters(part: Part) -> bool:
    return bool(part.values or part.merge or part.extends) or is_template(part.layer)


def _reach(parts: list[Part], templates: dict[str, Part]) -> list[Part]:
    """Return the templates that parts extend, directly or not. One that is missing is found by `check_chains`."""
    found: dict[str, Part] = {}
    waiting = [name for one in parts for name in one.extends]
    while waiting:
        name = waiting.pop()
        if name in templates and name not in found:
            found[name] = templates[name]
            waiting += templates[name].extends
    return [found[name] for name in sorted(found)]


def encode_bundle(bundle: Bundle) -> tuple[bytes, ConfigBundle]:
    """Return a bundle's canonical bytes and what a release says of them. Raises BadInput for one over MAX_BUNDLE."""
    data = codec.encode(bundle)
    if len(data) > MAX_BUNDLE:
        raise BadInput(
            f"cannot use the config of {bundle.service}: its layers and templates have {len(data)} bytes, at most "
            f"{MAX_BUNDLE} are allowed",
            hint="a `schema` leaves out the keys that the service does not use",
        )
    return data, ConfigBundle(digest=hashlib.sha256(data).hexdigest(), bytes=len(data))


def read_bundle(data: bytes, *, cluster_id: str, service: str) -> Bundle:
    """Return a bundle from its canonical bytes, checked. Raises BadInput (SpecErrors for its values) naming what is
    wrong: not canonical, too large, another format, of another cluster or service, parts or templates out of bounds."""
    what = f"the config bundle of {service}"
    bundle = codec.decode(data, Bundle, what=what, limit=MAX_BUNDLE)
    if bundle.format != FORMAT:
        raise BadInput(f"cannot read {what}: its format is {bundle.format}, this program reads {FORMAT}")
    if bundle.cluster_id != cluster_id:
        raise BadInput(f"cannot use {what}: it is of cluster {bundle.cluster_id[:64]!r}, not {cluster_id!r}")
    if bundle.service != service:
        raise BadInput(f"cannot use {what}: it is of service {bundle.service[:64]!r}")
    names = [one.layer for one in bundle.parts]
    if len(names) > MAX_PARTS or len(bundle.templates) > MAX_TEMPLATES:
        raise BadInput(
            f"cannot use {what}: {len(names)} layers and {len(bundle.templates)} templates, at most {MAX_PARTS} and "
            f"{MAX_TEMPLATES} are allowed"
        )
    if names != sorted(set(names)):
        raise BadInput(f"cannot use {what}: a layer stands twice, or they are out of order")
    for name, text in bundle.templates.items():
        check_template_text(name, text)
    problems = [*check_schema(bundle.schema, place="the bundle")]
    for one in bundle.parts:
        problems += check_part(one)
    if problems:
        raise SpecErrors(tuple(problems))
    return bundle


def check_template_text(name: str, text: str) -> None:
    """Raise BadInput unless a template's text is bounded and free of NUL."""
    if len(text) > MAX_TEMPLATE or "\0" in text or "\r" in text or not 0 < len(name) <= MAX_TEXT:
        raise BadInput(
            f"cannot use the template {name[:80]}: it has {len(text)} characters, NULs or carriage returns",
            hint=f"at most {MAX_TEMPLATE} characters of plain text are allowed, lines ended by a line feed",
        )


def compose(bundle: Bundle, facts: NodeFacts) -> Composed:
    """Return what a service's values are on a node, and everything wrong with them."""
    what = f"{bundle.service} on {facts.name}"
    parts, problems = line_up(bundle, facts)
    if problems:
        return Composed(tree=merge_parts((), schema={})[0], problems=problems)
    tree, misfits = merge_parts(parts, schema=bundle.schema)
    tree = fill_defaults(tree, bundle.schema)
    wrong = misfits or check_tree(tree, bundle.schema, what=what)
    return Composed(tree=tree, problems=wrong)


def resolve(bundle: Bundle, facts: NodeFacts) -> Branch:
    """Return a service's values on a node. Raises SpecErrors with every problem."""
    composed = compose(bundle, facts)
    if composed.problems:
        raise SpecErrors(composed.problems)
    return composed.tree


def layers_on(bundle: Bundle, facts: NodeFacts) -> tuple[str, ...]:
    """Return which of the bundle's layers a node meets: nodes with the same ones have the same values."""
    here = {one.layer for one in bundle.parts}
    return tuple(name for rank in ranks_of(service=bundle.service, facts=facts) for name in rank if name in here)
