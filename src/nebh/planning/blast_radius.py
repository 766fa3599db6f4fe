"""What whoever steals a key, or takes over a place where keys are, can do and cannot do, and how to recover: computed
from the verified trust state, so that it is about this cloud as it stands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nebh.model.errors import NotFound
from nebh.model.node import NodeRecord, NodeStatus
from nebh.model.policy import Policy
from nebh.model.service import PlacementMode
from nebh.model.trust import TrustedSet
from nebh.planning.schedule import is_placed_on

ASSIGNMENTS = "assignments"
"""Beside role names: signs assignments, as the settings say."""


@dataclass(frozen=True, kw_only=True)
class HeldKey:
    """A key that a role or the settings name. kind: recovery | operator | controller | ci; name: eight hex digits."""

    public: str
    name: str
    kind: str
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A computer where keys are. lock: "" = a plain file, passphrase, or ssh-agent; controller, node: it is that machine
    too; address: how its controller is reached from another computer."""

    name: str
    keys: tuple[str, ...]
    lock: str = ""
    controller: bool = False
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is computed from. thresholds: by role; address: the controller, as `nebh key recover --controller` takes it."""

    trusted: TrustedSet
    keys: tuple[HeldKey, ...]
    thresholds: dict[str, int]
    places: tuple[Place, ...] = ()
    address: str = "ssh://root@HOST"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One thing stolen. what: how to ask for it; kind: words, operator, ci, controller, node, agent, mirror, laptop or key
    (one that nothing names). code_on: services on which the thief can put code of their own; policies: that they can
    change; secrets: services whose secrets they get; runs_on: nodes they have. recover: commands, in this order."""

    what: str
    kind: str
    key: str = ""
    code_on: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = ()
    can: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()
    recover: tuple[str, ...] = ()


def blast_radius(facts: Facts) -> tuple[Loss, ...]:
    """Return every loss: keys from the strongest on, then places."""
    order = ("recovery", "operator", "ci", "controller")
    keys = sorted(facts.keys, key=lambda key: (order.index(key.kind), key.public))
    nodes = [node for node in facts.trusted.nodes.nodes if node.status is NodeStatus.ACTIVE]
    return (
        *(_of_key(facts, key) for key in keys),
        *(_of_place(facts, place) for place in facts.places),
        *(_of_node(facts, node) for node in nodes),
        _of_agent(),
        *(_of_mirror(name) for name in ("mirror", *facts.trusted.settings.mirrors)),
    )


def find_losses(facts: Facts, asked: str) -> tuple[Loss, ...]:
    """Return the losses of that name or kind, or of the key that begins so. A whole key that nothing names is a loss of
    nothing; raises NotFound for another unknown word."""
    known = blast_radius(facts)
    found = tuple(
        loss for loss in known if asked in (loss.what, loss.kind) or (len(asked) >= 8 and loss.key.startswith(asked))
    )
    named = {key.public: key.name for key in facts.keys}
    by_name = tuple(loss for loss in known if loss.key and named.get(loss.key) == asked)
    if found or by_name:
        return found or by_name
    if len(asked) == 64 and all(letter in "0123456789abcdef" for letter in asked):
        return (_of_unknown(facts, asked),)
    raise NotFound(
        f"cannot tell what the loss of {asked!r} means: no key, node or place is called so",
        hint="without a name all are shown; a revoked key is asked for by its 64 digits",
    )


def _services(facts: Facts) -> tuple[str, ...]:
    return tuple(sorted(facts.trusted.policies))


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _of_key(facts: Facts, key: HeldKey) -> Loss:
    match key.kind:
        case "recovery":
            return _of_words(facts, key)
        case "operator":
            return _of_operator(facts, key)
        case "ci":
            return _of_ci(facts, key)
        case _:
            return _of_controller(facts, key)


def _of_words(facts: Facts, key: HeldKey) -> Loss:
    services, most = _services(facts), facts.thresholds.get("root", 1)
    if most > 1:
        return _too_few(key, what="words", kind="words", role="root", most=most)
    return Loss(
        what="words",
        kind="words",
        key=key.public,
        code_on=services,
        policies=services,
        secrets=_secretive(facts.trusted.policies.values()),
        can=(
            "make themselves the only operator and the only controller: every key of this cloud can be replaced",
            f"then all that an operator can: code on {_names(services)}",
        ),
        cannot=("do it unseen: `nebh key list` shows their keys, or yours no longer works",),
        safe=("other clouds", "what runs, until the thief publishes"),
        recover=("nebh key rotate --recovery",),
    )


def _of_operator(facts: Facts, key: HeldKey) -> Loss:
    services, most = _services(facts), facts.thresholds.get("targets", 1)
    if most > 1:
        lost = _too_few(key, what="operator", kind="operator", role="targets", most=most)
        alone = _releases(facts, key)
        more = (f"but sign releases, inside their policies, of {_names(alone)}",) if alone else ()
        return replace(lost, code_on=alone, can=(*lost.can, *more))
    return Loss(
        what="operator",
        kind="operator",
        key=key.public,
        code_on=services,
        policies=services,
        secrets=_secretive(facts.trusted.policies.values()),
        can=(
            f"put code on every service: {_names(services)}, and add services",
            "change every policy: limits, routes, ports, connections, nodes, what an image may hold",
            "add nodes and CI keys; order: remove, abort, resume",
            "read status, logs, events and images from the controller",
        ),
        cannot=(
            "add, replace or keep an operator or controller key: root is signed by the words",
            "go below a node's floor unseen: that takes a new epoch in a policy",
        ),
        safe=("other clouds: each has a key of its own", "the recovery words"),
        recover=("nebh key recover", "nebh history", "nebh plan SPEC"),
    )


def _of_ci(facts: Facts, key: HeldKey) -> Loss:
    mine = _releases(facts, key)
    known = [facts.trusted.policies[name] for name in mine if name in facts.trusted.policies]
    alone = _controller_seals(facts)
    return Loss(
        what=f"ci:{','.join(mine)}",
        kind="ci",
        key=key.public,
        code_on=mine,
        secrets=_secretive(known),
        can=(
            f"sign releases of {_names(mine)}: code inside that policy's limits, routes, connections and nodes",
            "have them in effect at once: a controller key seals the set"
            if alone
            else "have them in effect when an operator signs the next set, whose difference shows them",
            *(f"run the numbers of {name} ahead: go back before its rollback window ends" for name in mine),
        ),
        cannot=(
            f"sign for another service: {_names(name for name in _services(facts) if name not in mine)}",
            "change a policy, a node, a key; exceed what the policy allows",
        ),
        safe=(*(f"service {name}" for name in _services(facts) if name not in mine), "every policy"),
        recover=(f"nebh key revoke {key.name} --since TIME", *(f"nebh rollback {name}" for name in mine)),
    )


def _releases(facts: Facts, key: HeldKey) -> tuple[str, ...]:
    """Return the services whose releases this key signs alone."""
    roles = [role for role in key.roles if role.startswith("rel-") and facts.thresholds.get(role, 1) <= 1]
    return tuple(sorted({role.removeprefix("rel-").partition(".")[0] for role in roles}))


def _of_controller(facts: Facts, key: HeldKey | None) -> Loss:
    """Return what a controller's key gives; None: its machine is taken, whatever its key is called."""
    policies = [facts.trusted.policies[service] for service in _services(facts)]
    spread = [one.service for one in policies if one.placement.mode is PlacementMode.SPREAD]
    choice = [f"{one.service} {_choice(facts, one)}" for one in policies]
    return Loss(
        what="controller",
        kind="controller",
        key=key.public if key else "",
        can=(
            "withhold and delay everything new",
            f"choose among what is signed and listed: {'; '.join(choice) or 'nothing'}",
            "restart, and scale within the policy: "
            + (", ".join(f"{one.service} {one.replicas.min} to {one.replicas.max}" for one in policies) or "nothing"),
            f"withdraw services that are not pinned: {_names(spread)}",
            "read images, logs, events and metadata; show the operator false status",
        ),
        cannot=(
            "run code that nobody signed, go below a floor, use a node that the policy does not name",
            "change a policy, a key or the list of nodes; forge a node's receipt or an operator's order",
        ),
        safe=("every policy", "what the containers hold", "the operator's keys"),
        recover=("nebh key add NEW --as controller", f"nebh key revoke {key.name if key else 'KEY'}"),
    )


def _choice(facts: Facts, policy: Policy) -> str:
    """Say which releases of a service are listed and not below the signed minimum."""
    listed = {
        int(path.rpartition("/")[2].removesuffix(".json"))
        for role in facts.trusted.delegations
        for path in role.listed
        if path.startswith(f"release/{policy.service}/")
    }
    allowed = sorted(number for number in listed if number >= policy.min_release or number in policy.pins)
    return _names(str(number) for number in allowed)


def _of_node(facts: Facts, node: NodeRecord) -> Loss:
    admitted = [one for one in facts.trusted.policies.values() if is_placed_on(one, node)]
    mine = tuple(sorted(one.service for one in admitted))
    return Loss(
        what=node.name,
        kind="node",
        secrets=_secretive(admitted),
        runs_on=(node.name,),
        can=(
            f"read and change what runs there; its policies admit {_names(mine)}",
            "sign receipts that say anything about this node",
        ),
        cannot=(
            "make another node run anything",
            "sign a release, a policy or an assignment; act as operator at the controller",
        ),
        safe=("every policy and release", "other nodes"),
        recover=("nebh up root@NEW --name NAME", "nebh deploy SPEC"),
    )


def _of_agent() -> Loss:
    return Loss(
        what="agent",
        kind="agent",
        can=(
            "withhold and delay",
            "lie about probes: the node goes back inside its rollback window, or keeps a release whose probes fail",
        ),
        cannot=("name a release, change data, read keys or secrets", "pass off other bytes: the executor hashes them"),
        safe=("what runs", "every key of the node"),
        recover=("systemctl restart nebh-agent",),
    )


def _of_mirror(name: str) -> Loss:
    return Loss(
        what=name,
        kind="mirror",
        can=("withhold and delay", "read metadata and images that it holds"),
        cannot=("pass off other bytes, or an older set, as current",),
        safe=("what runs", "every key"),
        recover=(),
    )


def _of_place(facts: Facts, place: Place) -> Loss:
    """Return all that is lost with a computer: its keys together, and the machine itself."""
    held = [key for key in facts.keys if key.public in place.keys]
    parts = [_of_key(facts, key) for key in held]
    if place.controller and not any(key.kind == "controller" for key in held):
        parts.append(_of_controller(facts, next((key for key in facts.keys if key.kind == "controller"), None)))
    parts += [_of_node(facts, node) for node in facts.trusted.nodes.nodes if node.name == place.node]
    operator = next((key for key in held if key.kind == "operator"), None)
    recover = tuple(dict.fromkeys(line for part in parts for line in part.recover))
    if operator is not None:
        elsewhere = f"nebh key recover --name {facts.trusted.settings.name} --controller {facts.address}"
        recover = (elsewhere, *(line for line in recover if line != "nebh key recover"))
    return Loss(
        what=place.name,
        kind=place.name,
        code_on=_union(part.code_on for part in parts),
        policies=_union(part.policies for part in parts),
        secrets=_union(part.secrets for part in parts),
        runs_on=_union(part.runs_on for part in parts),
        can=(*_LOCKS.get(place.lock, ()), *_union(part.can for part in parts)),
        cannot=parts[0].cannot if parts else ("sign anything: no key of this cloud is there",),
        safe=parts[0].safe if parts else ("everything",),
        recover=recover,
    )


_LOCKS = {
    "passphrase": ("nothing with the key until its passphrase is known; then:",),
    "ssh-agent": ("sign while the agent holds the key, without having the key itself:",),
}


def _of_unknown(facts: Facts, public: str) -> Loss:
    return Loss(
        what=public[:16],
        kind="key",
        key=public,
        can=("nothing: no role and no setting names this key",),
        cannot=("sign anything that a node or the command line takes",),
        safe=(*(f"service {name}" for name in _services(facts)), "every policy"),
    )


def _too_few(key: HeldKey, *, what: str, kind: str, role: str, most: int) -> Loss:
    """A key of a role that takes several: alone it signs nothing of that role."""
    lost = Loss(
        what=what,
        kind=kind,
        key=key.public,
        can=(f"nothing alone: {role} takes {most} signatures",),
        cannot=("change a policy, a key or the list of nodes",),
        safe=("every policy", "every service, while the other keys are held"),
    )
    return replace(lost, recover=("nebh key rotate --recovery" if what == "words" else f"nebh key revoke {key.name}",))


def _controller_seals(facts: Facts) -> bool:
    return any(key.kind == "controller" and "snapshot" in key.roles for key in facts.keys)


def _secretive(policies: Iterable[Policy]) -> tuple[str, ...]:
    return tuple(sorted(one.service for one in policies if one.secrets))


def _union(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))
