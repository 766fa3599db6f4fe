"""The text of our nftables table. Pure: rules in, text for `nft -f` out.

The table `inet nebh` is all we own. Its base chains accept by policy; only what enters or leaves an interface `nebh*`
is looked at further, and there everything is refused unless a rule below names it:

- a sender uses its own link's address (anything else is dropped before connection tracking sees it);
- metadata services, link-local, loopback and multicast addresses are never reached, whatever the policy says;
- the host answers DNS on its resolver addresses and nothing else (the second resolver: only with egress "dns");
- an instance reaches another only through an endpoint, on a port that an Allow names for its service;
- outside, it reaches what its service's egress names. A CIDR wider than a private block means the internet and leaves
  private blocks out: `0.0.0.0/0` does not open 10.0.0.0/8, `10.0.0.0/8` or `10.1.2.0/24` does;
- one instance holds at most `connections` tracked connections.

These rules look at every packet of the opening side, so taking an Allow away ends connections that run. Leading an
endpoint to another instance does not: address translation is decided once per connection.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from nebh.model.errors import BadInput, Broken
from nebh.model.names import check_name
from nebh.model.network import (
    GATEWAY_INDEX,
    PUBLIC_RESOLVER_INDEX,
    RESOLVER_INDEX,
    InstanceNet,
    NetworkRules,
    addresses,
)
from nebh.model.service import Egress

TABLE = "inet nebh"
PUBLIC_NAMES = "dns"
CONNECTIONS = 4096

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NEVER4 = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local; metadata of most providers
    "100.100.100.200/32",  # metadata: Alibaba
    "192.0.0.192/32",  # metadata: Oracle
    "168.63.129.16/32",  # wire server: Azure
    "224.0.0.0/3",  # multicast, reserved, broadcast
)
_NEVER6 = (
    "::/127",
    "fd00:ec2::254/128",  # metadata: EC2
    "fd20:ce::254/128",  # metadata: Google
    "fd00:42::42/128",  # metadata: Scaleway
    "fd00:c1::a9fe:a9fe/128",  # metadata: Oracle
    "fe80::/10",
    "ff00::/8",
)
_PRIVATE4 = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15")
_PRIVATE6 = ("fc00::/7", "fec0::/10")
_EMBEDDED = ((int(ipaddress.IPv6Address("64:ff9b::")), 96), (int(ipaddress.IPv6Address("::ffff:0:0")), 96))

Elements = dict[str, dict[str, str]]
"""By set or map: its keys, with the value of a map ("" in a set)."""

_SETS = {
    "links4": "set links4 { type ifname . ipv4_addr;",
    "links6": "set links6 { type ifname . ipv6_addr;",
    "endpoints4": "map endpoints4 { type ipv4_addr : ipv4_addr;",
    "endpoints6": "map endpoints6 { type ipv6_addr : ipv6_addr;",
    "connects4": "set connects4 { type ipv4_addr . ipv4_addr . inet_service;",
    "connects6": "set connects6 { type ipv6_addr . ipv6_addr . inet_service;",
    "names4": "set names4 { type ipv4_addr;",
    "names6": "set names6 { type ipv6_addr;",
    "egress4": "map egress4 { type ipv4_addr : verdict;",
    "egress6": "map egress6 { type ipv6_addr : verdict;",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a set of rules comes to: the part that is text, and the elements, which can change alone."""

    skeleton: str
    elements: Elements


def build_table(rules: NetworkRules, *, connections: int = CONNECTIONS) -> Table:
    """Return the table for `rules`. Raises BadInput for an egress that is none, Broken for two servers of one endpoint."""
    return Table(skeleton=_skeleton(rules, connections), elements=_elements(rules))


def render_table(table: Table) -> str:
    """Return the text that replaces our table by `table` in one transaction."""
    lines = [f"table {TABLE}", f"delete table {TABLE}", f"table {TABLE} {{"]
    for name, head in _SETS.items():
        elements = table.elements[name]
        lines.append(f"  {head} elements = {{ {_join(elements)} }}; }}" if elements else f"  {head} }}")
    return "\n".join(lines) + "\n" + table.skeleton + "}\n"


def render_change(old: Table, new: Table) -> str | None:
    """Return the text that turns `old` into `new` by elements alone ("" = nothing differs); None when that cannot be."""
    if old.skeleton != new.skeleton:
        return None
    lines: list[str] = []
    for verb, have, want in (("delete", new, old), ("add", old, new)):
        for name in _SETS:
            gone = {k: v for k, v in want.elements[name].items() if have.elements[name].get(k) != v}
            if gone:
                lines.append(f"{verb} element {TABLE} {name} {{ {_join(gone)} }}")
    return "".join(line + "\n" for line in lines)


def render_removal() -> str:
    """Return the text that takes our table away; it works without one, too."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def parse_counters(text: str) -> dict[str, int]:
    """Return packets by name from what `nft list counters` printed."""
    found = re.findall(r"counter (\S+) \{\s*packets (\d+) ", text)
    return {name: int(packets) for name, packets in found}


def _join(elements: dict[str, str]) -> str:
    return ", ".join(f"{key} : {value}" if value else key for key, value in sorted(elements.items()))


def _elements(rules: NetworkRules) -> Elements:
    elements: Elements = {name: {} for name in _SETS}
    for instance in rules.instances:
        pair, name = instance.link.pair, instance.link.name
        elements["links4"][f'"{name}" . {pair.v4}'] = ""
        elements["links6"][f'"{name}" . {pair.v6}'] = ""
        if instance.serving:
            _serve(elements["endpoints4"], instance.endpoint.v4, pair.v4)
            _serve(elements["endpoints6"], instance.endpoint.v6, pair.v6)
        wanted = rules.egress.get(instance.service, ())
        if any(egress.cidr == PUBLIC_NAMES for egress in wanted):
            elements["names4"][pair.v4] = elements["names6"][pair.v6] = ""
        if any(egress.cidr != PUBLIC_NAMES for egress in wanted):
            elements["egress4"][pair.v4] = elements["egress6"][pair.v6] = f"goto egress_{instance.service}"
    members: dict[str, list[InstanceNet]] = {}
    for instance in rules.instances:
        members.setdefault(instance.service, []).append(instance)
    for allow in rules.allows:
        for source in members.get(allow.source, ()):
            for target in members.get(allow.target, ()):
                elements["connects4"][f"{source.link.pair.v4} . {target.endpoint.v4} . {allow.port}"] = ""
                elements["connects6"][f"{source.link.pair.v6} . {target.endpoint.v6} . {allow.port}"] = ""
    return elements


def _serve(endpoints: dict[str, str], endpoint: str, address: str) -> None:
    if endpoints.setdefault(endpoint, address) != address:
        raise Broken(f"cannot lead {endpoint} to {address}: {endpoints[endpoint]} serves it already")


def _skeleton(rules: NetworkRules, connections: int) -> str:
    private4, private6 = _with_embedded(_PRIVATE4, _PRIVATE6)
    never4, never6 = _with_embedded(_NEVER4, _NEVER6)
    resolver, public = (addresses(rules.subnets, index) for index in (RESOLVER_INDEX, PUBLIC_RESOLVER_INDEX))
    gateway = addresses(rules.subnets, GATEWAY_INDEX)
    text = _FIXED
    for name, value in {
        "NEVER4": ", ".join(never4),
        "NEVER6": ", ".join(never6),
        "PRIVATE4": ", ".join((*private4, rules.subnets[0])),
        "PRIVATE6": ", ".join((*private6, rules.subnets[1])),
        "OWN4": f"{resolver.v4}, {public.v4}, {gateway.v4}",
        "OWN6": f"{resolver.v6}, {public.v6}, {gateway.v6}",
        "RESOLVER4": resolver.v4,
        "RESOLVER6": resolver.v6,
        "PUBLIC4": public.v4,
        "PUBLIC6": public.v6,
        "GATEWAY4": gateway.v4,
        "GATEWAY6": gateway.v6,
        "SUBNET4": rules.subnets[0],
        "SUBNET6": rules.subnets[1],
        "CONNECTIONS": str(connections),
        "EGRESS\n": "".join(_egress_chain(name, rules.egress[name]) for name in sorted(rules.egress)),
    }.items():
        text = text.replace(f"${name}", value)
    return text


def _with_embedded(four: tuple[str, ...], six: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Add to `six` the IPv6 forms (NAT64, mapped) under which a translator would reach `four`."""
    more: list[str] = []
    for text in four:
        network = ipaddress.IPv4Network(text)
        for base, length in _EMBEDDED:
            value = ipaddress.IPv6Address(base | int(network.network_address))
            more.append(f"{value}/{length + network.prefixlen}")
    return four, (*six, *more)


def _egress_chain(service: str, wanted: tuple[Egress, ...]) -> str:
    check_name(service, what="service")
    rules = [_egress_rule(service, egress) for egress in wanted if egress.cidr != PUBLIC_NAMES]
    lines = "".join(f"    {rule}\n" for rule in rules)
    counter = f"  counter refused_{service} {{ }}\n"
    return f"{counter}  chain egress_{service} {{\n{lines}    counter name refused_{service} goto refuse\n  }}\n"


def _egress_rule(service: str, egress: Egress) -> str:
    try:
        network: _Network = ipaddress.ip_network(_without_scope(egress.cidr))
    except ValueError as error:
        raise BadInput(
            f"cannot open {egress.cidr!r} to {service}: {error}", hint='write a CIDR such as 203.0.113.0/24, or "dns"'
        ) from error
    if egress.protocol not in {"tcp", "udp"} or not 0 <= egress.port <= 0xFFFF:
        raise BadInput(f"cannot open {egress.protocol} port {egress.port} to {service}: no such thing")
    family, version = ("ip", "4") if network.version == 4 else ("ip6", "6")
    words = [family, "daddr", str(network)]
    if _wider_than_private(network):
        words += [family, "daddr", "!=", f"@private{version}"]
    words += [egress.protocol, "dport", str(egress.port)] if egress.port else ["meta", "l4proto", egress.protocol]
    return " ".join((*words, "goto open"))


def _without_scope(cidr: str) -> str:
    # the standard library takes any text after a percent sign for an interface, line breaks and all
    if "%" in cidr:
        raise ValueError("it names an interface")
    return cidr


def _wider_than_private(network: _Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return not any(network.subnet_of(ipaddress.IPv4Network(text)) for text in _PRIVATE4)
    return not any(network.subnet_of(ipaddress.IPv6Network(text)) for text in _PRIVATE6)


_FIXED = """\
  set never4 { type ipv4_addr; flags interval; auto-merge; elements = { $NEVER4 }; }
  set never6 { type ipv6_addr; flags interval; auto-merge; elements = { $NEVER6 }; }
  set private4 { type ipv4_addr; flags interval; auto-merge; elements = { $PRIVATE4 }; }
  set private6 { type ipv6_addr; flags interval; auto-merge; elements = { $PRIVATE6 }; }
  set flood4 { type ipv4_addr; flags dynamic; size 8192; }
  set flood6 { type ipv6_addr; flags dynamic; size 8192; }
  set over4 { type ipv4_addr; flags dynamic, timeout; timeout 1s; size 8192; }
  set over6 { type ipv6_addr; flags dynamic, timeout; timeout 1s; size 8192; }
  counter spoofed { }
  counter never { }
  counter flooded { }
  counter refused { }
  counter refused_host { }
  counter refused_between { }
  counter refused_outside { }

  chain early {
    type filter hook prerouting priority raw; policy accept;
    iifname "nebh*" jump sender
  }
  chain sender {
    ip daddr @never4 counter name never drop
    ip6 daddr @never6 counter name never drop
    iifname . ip saddr @links4 return
    iifname . ip6 saddr @links6 return
    counter name spoofed drop
  }

  chain endpoints {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "nebh*" dnat ip to ip daddr map @endpoints4
    iifname "nebh*" dnat ip6 to ip6 daddr map @endpoints6
  }

  chain input {
    type filter hook input priority filter; policy accept;
    iifname "nebh*" jump to_host
    iifname != "lo" ip daddr { $OWN4 } counter name refused_outside drop
    iifname != "lo" ip6 daddr { $OWN6 } counter name refused_outside drop
  }
  chain to_host {
    ct state invalid drop
    ct state related accept
    ct state established ct direction reply accept
    ip daddr $RESOLVER4 meta l4proto { tcp, udp } th dport 53 goto open
    ip6 daddr $RESOLVER6 meta l4proto { tcp, udp } th dport 53 goto open
    ip daddr $PUBLIC4 ip saddr @names4 meta l4proto { tcp, udp } th dport 53 goto open
    ip6 daddr $PUBLIC6 ip6 saddr @names6 meta l4proto { tcp, udp } th dport 53 goto open
    counter name refused_host goto refuse
  }

  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "nebh*" jump from_instance
    oifname "nebh*" jump to_instance
  }
  chain from_instance {
    ct state invalid drop
    ct state related accept
    ct state established ct direction reply accept
    ip daddr @never4 counter name never drop
    ip6 daddr @never6 counter name never drop
    oifname "nebh*" goto between
    ip saddr vmap @egress4
    ip6 saddr vmap @egress6
    counter name refused goto refuse
  }
  chain between {
    ip saddr . ct original ip daddr . tcp dport @connects4 goto open
    ip6 saddr . ct original ip6 daddr . tcp dport @connects6 goto open
    counter name refused_between goto refuse
  }
  chain to_instance {
    ct state invalid drop
    ct state related accept
    ct state established ct direction reply accept
    counter name refused_outside drop
  }
$EGRESS
  chain open {
    # counting looks at every connection of the source, in the kernel's own time: who is over its bound is not counted
    # again for a second
    ct state new ip saddr @over4 counter name flooded drop
    ct state new ip6 saddr @over6 counter name flooded drop
    ct state new add @flood4 { ip saddr ct count over $CONNECTIONS } add @over4 { ip saddr } counter name flooded drop
    ct state new add @flood6 { ip6 saddr ct count over $CONNECTIONS } add @over6 { ip6 saddr } counter name flooded drop
    accept
  }
  chain refuse {
    limit rate over 50/second burst 50 packets drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }

  chain outward {
    type nat hook postrouting priority srcnat; policy accept;
    # who reaches itself through an endpoint must not meet its own address as a stranger's
    oifname . ip saddr @links4 snat ip to $GATEWAY4
    oifname . ip6 saddr @links6 snat ip6 to $GATEWAY6
    ip saddr $SUBNET4 oifname != "nebh*" oifname != "lo" masquerade
    ip6 saddr $SUBNET6 oifname != "nebh*" oifname != "lo" masquerade
  }
"""
