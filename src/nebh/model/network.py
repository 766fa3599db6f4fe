"""Addresses, rules and slots: what a node's network, DNS and ingress should look like, as values.

An *endpoint* is the stable address of an allocation: names resolve to it, `connects:` rules name it, and a DNAT map
leads it to the address of the instance that serves now. So a cut-over changes one map element and no name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from nebh.model.service import Egress, Route

RESOLVER_INDEX = 1
PUBLIC_RESOLVER_INDEX = 2
GATEWAY_INDEX = 3
FIRST_ENDPOINT = 16
FIRST_INSTANCE = 2048
LAST_INSTANCE = 4094


@dataclass(frozen=True, kw_only=True)
class AddressPair:
    """One IPv4 and one IPv6 address with the same index in their subnets."""

    v4: str
    v6: str


def addresses(subnets: tuple[str, ...], index: int) -> AddressPair:
    """Return the pair with number `index` in a node's (IPv4, IPv6) subnets."""
    four, six = ipaddress.ip_network(subnets[0]), ipaddress.ip_network(subnets[1])
    return AddressPair(v4=str(four[index]), v6=str(six[index]))


@dataclass(frozen=True, kw_only=True)
class LinkPlan:
    """The routed veth of one instance. name: host side, `nebh` + 4 hex digits of the index, at most 15 characters."""

    name: str
    pair: AddressPair


def link_plan(subnets: tuple[str, ...], index: int) -> LinkPlan:
    """Return the link of the instance with address number `index`."""
    return LinkPlan(name=f"nebh{index:04x}", pair=addresses(subnets, index))


@dataclass(frozen=True, kw_only=True)
class InstanceNet:
    """An instance on the network. endpoint: of its allocation; serving: new connections to the endpoint lead here."""

    link: LinkPlan
    service: str
    endpoint: AddressPair
    serving: bool


@dataclass(frozen=True, kw_only=True)
class Allow:
    """Instances of `source` may open TCP connections to endpoints of `target` on `port`."""

    source: str
    target: str
    port: int


@dataclass(frozen=True, kw_only=True)
class NetworkRules:
    """The whole of our nftables table. egress: by service. subnets: the node's own."""

    subnets: tuple[str, ...]
    instances: tuple[InstanceNet, ...] = ()
    allows: tuple[Allow, ...] = ()
    egress: dict[str, tuple[Egress, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DnsRecords:
    """Addresses by service; `db` answers as `db.nebh.internal`."""

    services: dict[str, tuple[AddressPair, ...]] = field(default_factory=dict)


class SlotState(StrEnum):
    """ready: gets new requests. drain: finishes those it has. maint: gets nothing."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One place in a backend. address "" = free. port 0 = the backend's; another while a release moves its port."""

    number: int
    address: str = ""
    port: int = 0
    state: SlotState = SlotState.MAINT


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Where the routes of one (service, port) lead. Slots not named are free."""

    service: str
    port: int
    routes: tuple[Route, ...]
    slots: tuple[Slot, ...] = ()

    @property
    def key(self) -> str:
        """Its name: `web:8080`."""
        return f"{self.service}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class IngressPlan:
    """Everything the proxy should know. http_port / https_port: where it listens on the node. pems: certificate chain and
    key by host, of routes whose own are no files; such a host without one gets no HTTPS yet. challenges: by host, the
    account thumbprint that HTTP-01 tokens are answered with."""

    http_port: int
    https_port: int
    backends: tuple[Backend, ...] = ()
    pems: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    challenges: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SlotChange:
    """Set one slot of a backend to a state."""

    backend: str
    number: int
    state: SlotState


@dataclass(frozen=True, kw_only=True)
class SlotCounters:
    """The proxy's own numbers of one slot: requests that run, wait, were answered; answers 5xx and failed connections;
    average answer time of the last 1,024 requests in ms."""

    current: int
    queued: int
    total: int
    errors: int
    average_ms: int
