"""No driver effect without a fault point, no name without a use: read from the executor's own source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nebh.executor
from nebh.executor.effects import EFFECTS, STATE_POINTS, fault_points
from nebh.model.transaction import LEGAL, State

SOURCE = Path(nebh.executor.__file__).parent
# What changes the machine, by driver. Everything else that they do only looks.
CHANGES = {
    "containers": {"create", "start", "signal", "delete", "give_secrets", "give_files"},
    "networks": {"attach", "detach", "apply", "swap", "ensure"},
    "ingress": {"configure", "switch", "record", "ensure"},
    "dns": {"apply", "ensure"},
    "store": {"put", "materialise", "keep_manifest", "collect", "sync"},
}
# Who may change the machine outside of an effect, and why.
REASONED = {
    ("assemble", "_forget_strangers"): "removes what the journal does not know; repeated at every start",
    ("dataplane", "ensure"): "a start brings everything shared to the journal, whatever was there",
    ("dataplane", "ensure_ingress"): "the same, when the proxy was killed",
    ("dataplane", "configure_ingress"): "called inside prepare.slots, sweep.slots, cutover.record and back.record",
    (
        "dataplane",
        "apply_network",
    ): "called inside prepare.rules and sweep.rules; after a restart it is repeated by the next",
    ("dataplane", "swap_endpoints"): "called inside cutover.endpoints and back.endpoints",
    ("dataplane", "apply_names"): "called inside cutover.names and back.names",
    ("dataplane", "record_ingress"): "called inside cutover.record and back.record",
    ("dataplane", "switch"): "called inside cutover.switch, back.switch, start.yield and sweep.retire",
    ("prepare", "_manifest"): "called inside prepare.manifest",
    ("supervise", "_keep_shared"): "brings back what somebody else took away; changes nothing else",
    ("supervise", "_take"): "ends an instance whose liveness failed: its end is noticed and journalled like any other",
    ("watch_storage", "_ask_to_end"): "called inside storage.halt",
    ("sweep", "_ask_to_end"): "called inside sweep.stop and start.yield",
    ("sweep", "prune"): "called inside sweep.prune, and at every start",
}


@dataclass
class Found:
    """A call that changes the machine. inside: the names of the effects around it."""

    module: str
    function: str
    call: str
    inside: list[str] = field(default_factory=list)


def driver_of(call: ast.expr) -> str:
    """Return `containers.create` for `x.drivers.containers.create`, "" for what is no change."""
    if not isinstance(call, ast.Attribute):
        return ""
    holder = call.value
    name = holder.attr if isinstance(holder, ast.Attribute) else holder.id if isinstance(holder, ast.Name) else ""
    name = name.lstrip("_")
    return f"{name}.{call.attr}" if call.attr in CHANGES.get(name, set()) else ""


def effect_name(item: ast.withitem) -> str:
    """Return the name that a `with effect(...)` or `with hot_effect(...)` gives, as far as it is written there."""
    call = item.context_expr
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return ""
    if call.func.id not in ("effect", "hot_effect"):
        return ""
    name = call.args[-1]
    if isinstance(name, ast.Constant):
        return str(name.value)
    assert isinstance(name, ast.JoinedStr), ast.dump(name)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in name.values)


def walk(node: ast.AST, module: str, function: str, inside: list[str]) -> Iterator[Found]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        function = node.name
    if isinstance(node, ast.With):
        inside = inside + [name for item in node.items if (name := effect_name(item))]
    # as a value too: `agent.objects(items, store.put)` has somebody else call it
    if isinstance(node, ast.Attribute) and (call := driver_of(node)):
        yield Found(module, function, call, inside)
    for child in ast.iter_child_nodes(node):
        yield from walk(child, module, function, inside)


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.glob("*.py")):
        yield path.stem, ast.parse(path.read_text())


def effects_used() -> set[str]:
    used = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.With):
                used |= {name for item in node.items if (name := effect_name(item))}
    return used


def test_every_change_of_the_machine_lies_inside_an_effect() -> None:
    found = [one for module, tree in trees() for one in walk(tree, module, "", [])]
    assert len(found) >= 15
    bare = [one for one in found if not one.inside and (one.module, one.function) not in REASONED]
    assert not bare, "a driver effect without a fault point: " + "; ".join(
        f"{one.module}.{one.function}: {one.call}" for one in bare
    )


def test_every_reason_is_still_needed() -> None:
    found = {
        (one.module, one.function) for module, tree in trees() for one in walk(tree, module, "", []) if not one.inside
    }
    assert not REASONED.keys() - found


def test_every_effect_is_used_and_every_use_is_listed() -> None:
    used = effects_used()
    prefixed = {f"{prefix}.{name[2:]}" for name in used if name.startswith("*.") for prefix in _prefixes()}
    assert set(EFFECTS) == {name for name in used if "*" not in name} | (prefixed & set(EFFECTS))


def _prefixes() -> set[str]:
    """The prefixes that functions with a `prefix` parameter are called with."""
    return {
        str(word.value.value)
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "prefix" and isinstance(word.value, ast.Constant)
    }


def test_every_state_has_its_points() -> None:
    entered = {state for following in LEGAL.values() for state in following}
    assert {f"state.{state.value.lower()}" for state in entered} == set(STATE_POINTS)
    assert State.ASSIGNED not in entered


def test_transitions_are_journalled_in_one_place() -> None:
    """`Work.move` is called by Run.move, which passes the points, and by recovery, which is repeated after a crash."""
    callers = {
        module
        for module, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "move"
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "work"
    }
    assert callers == {"run", "engine"}


def test_points_are_many() -> None:
    points = fault_points()
    assert len(points) == len(set(points)) >= 60
    assert len(EFFECTS) + len(STATE_POINTS) >= 20


def test_a_bare_change_would_be_found() -> None:
    bare = ast.parse("def extra(context, plan):\n    context.drivers.containers.create(plan)\n")
    held = ast.parse(
        "def extra(c, plan):\n    with effect(c, 1, 'prepare.create'):\n        c.drivers.containers.create(plan)\n"
    )
    assert [(one.function, one.call, one.inside) for one in walk(bare, "new", "", [])] == [
        ("extra", "containers.create", [])
    ]
    assert [one.inside for one in walk(held, "new", "", [])] == [["prepare.create"]]
