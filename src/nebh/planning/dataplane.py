"""What network, DNS and ingress of a node should look like, computed from its instances and policies."""

from __future__ import annotations

from dataclasses import replace

from nebh.model.local import LocalConfig
from nebh.model.network import (
    AddressPair,
    Allow,
    Backend,
    DnsRecords,
    IngressPlan,
    InstanceNet,
    NetworkRules,
    Slot,
    SlotChange,
    SlotState,
    addresses,
    link_plan,
)
from nebh.model.policy import Policy
from nebh.model.rehearsal import RehearsalRow
from nebh.model.service import Route
from nebh.model.work import InstanceRow, Role

APART = "APART"
"""Stands for a service on the network that is nobody's: in upper case no name of a service."""
Endpoints = dict[tuple[str, int], int]


def endpoint_of(endpoints: Endpoints, subnets: tuple[str, ...], one: InstanceRow) -> AddressPair:
    """Return the stable address of an instance's allocation."""
    return addresses(subnets, endpoints[one.service, one.replica])


def network_rules(
    *,
    instances: tuple[InstanceRow, ...],
    endpoints: Endpoints,
    policies: dict[str, Policy],
    subnets: tuple[str, ...],
    apart: tuple[RehearsalRow, ...] = (),
) -> NetworkRules:
    """Return the whole table. An instance reaches what its service's policy declares and what exists here; those
    `apart` reach nothing: they only answer who probes them from this host."""
    nets = tuple(
        InstanceNet(
            link=link_plan(subnets, one.address),
            service=one.service,
            endpoint=endpoint_of(endpoints, subnets, one),
            serving=one.role is Role.SERVING,
        )
        for one in instances
    )
    nets += tuple(
        InstanceNet(link=link, service=APART, endpoint=link.pair, serving=False)
        for link in (link_plan(subnets, one.address) for one in apart)
    )
    here = {one.service for one in instances}
    allows = tuple(
        Allow(source=name, target=connect.service, port=connect.port)
        for name in sorted(here & policies.keys())
        for connect in policies[name].net.connects
        if connect.service in here and connect.port in policies[connect.service].net.ports.values()
    )
    egress = {name: policies[name].net.egress for name in sorted(here & policies.keys()) if policies[name].net.egress}
    return NetworkRules(subnets=subnets, instances=nets, allows=allows, egress=egress)


def join_bounds(one: Policy, other: Policy) -> Policy:
    """Return `one` with what `other` declares of the network added: both sides of an update must reach what they need."""
    net = replace(
        one.net,
        ports={**{f"also-{name}": number for name, number in other.net.ports.items()}, **one.net.ports},
        connects=tuple(dict.fromkeys((*one.net.connects, *other.net.connects))),
        egress=tuple(dict.fromkeys((*one.net.egress, *other.net.egress))),
    )
    return replace(one, net=net)


def dns_records(*, instances: tuple[InstanceRow, ...], endpoints: Endpoints, subnets: tuple[str, ...]) -> DnsRecords:
    """Return the names of services that serve here, each with the endpoints of its allocations."""
    found: dict[str, dict[int, AddressPair]] = {}
    for one in instances:
        if one.role is Role.SERVING:
            found.setdefault(one.service, {})[one.replica] = endpoint_of(endpoints, subnets, one)
    return DnsRecords(services={name: tuple(pairs[n] for n in sorted(pairs)) for name, pairs in sorted(found.items())})


def routed_ports(policy: Policy) -> dict[int, tuple[Route, ...]]:
    """Return the routes of a policy by the port they lead to."""
    found: dict[int, tuple[Route, ...]] = {}
    for route in policy.net.routes:
        found[route.port] = (*found.get(route.port, ()), route)
    return found


def own_port(policy: Policy, port: int, ports: dict[str, int]) -> int:
    """Return where a release listens for what the policy calls `port`: the same name, maybe another number."""
    names = [name for name, number in policy.net.ports.items() if number == port]
    return ports.get(names[0], port) if names else port


_SLOT_STATES = {
    Role.NEW: SlotState.MAINT,
    Role.SERVING: SlotState.READY,
    Role.OLD: SlotState.DRAIN,
    Role.LEAVING: SlotState.DRAIN,
}


def ingress_plan(
    *,
    instances: tuple[InstanceRow, ...],
    policies: dict[str, Policy],
    subnets: tuple[str, ...],
    config: LocalConfig,
    ports: dict[str, dict[str, int]],
    resting: frozenset[str] = frozenset(),
) -> IngressPlan:
    """Return every backend with its slots. resting: instances that are not ready just now (restarting). ports: by
    instance, the ports its own release listens on, by name: old and new may differ."""
    backends: list[Backend] = []
    for name in sorted({one.service for one in instances} & policies.keys()):
        for port, routes in sorted(routed_ports(policies[name]).items()):
            slots = tuple(
                Slot(
                    number=one.slot,
                    address=addresses(subnets, one.address).v4,
                    port=own_port(policies[name], port, ports.get(one.id, {})),
                    state=SlotState.MAINT if one.id in resting else _SLOT_STATES[one.role],
                )
                for one in sorted(instances, key=lambda one: one.slot)
                if one.service == name
            )
            backends.append(Backend(service=name, port=port, routes=routes, slots=slots))
    return IngressPlan(http_port=config.http_port, https_port=config.https_port, backends=tuple(backends))


def slot_changes(
    *, policy: Policy, ready: tuple[InstanceRow, ...], drain: tuple[InstanceRow, ...], then: SlotState = SlotState.DRAIN
) -> tuple[SlotChange, ...]:
    """Return one batch: `ready` first, so that no instant is without a slot, then `drain` to `then`."""
    keys = [f"{policy.service}:{port}" for port in sorted(routed_ports(policy))]
    return tuple(
        SlotChange(backend=key, number=one.slot, state=state)
        for group, state in ((ready, SlotState.READY), (drain, then))
        for one in group
        for key in keys
    )
