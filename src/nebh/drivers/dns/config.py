"""The texts the resolvers read. Pure."""

from __future__ import annotations

import hashlib
import ipaddress

from nebh.model.errors import BadInput
from nebh.model.names import check_name
from nebh.model.network import AddressPair, DnsRecords

ZONE = "nebh.internal"
_MARK = "0.0.0.0"

_COMMON = """\
# Written by nebh; changes are lost.
port=53
bind-interfaces
listen-address={v4}
{listen6}keep-in-foreground
pid-file=
log-facility=-
no-hosts
addn-hosts={hosts}
# names of ours never leave the node; what the file above does not know does not exist
local=/{zone}/
# an endpoint may move: nobody should remember it
local-ttl=0
no-negcache
edns-packet-max=1232
dns-forward-max=256
max-tcp-connections=32
"""

_INTERNAL = """\
# no other names, no upstream
no-resolv
local=/#/
cache-size=0
"""


def render_internal(address: AddressPair, *, hosts: str, ipv6: bool = True) -> str:
    """Return the configuration of the resolver that knows our own names alone. hosts: path of the hosts file."""
    return _common(address, hosts=hosts, ipv6=ipv6) + _INTERNAL


def render_public(address: AddressPair, *, hosts: str, upstream: tuple[str, ...] = (), ipv6: bool = True) -> str:
    """Return the configuration of the resolver that forwards other names to `upstream` (() = the host's resolvers)."""
    lines = ["# other names: ask the resolvers of the host"]
    if upstream:
        lines += ["no-resolv", *(f"server={_address(server)}" for server in upstream)]
    else:
        lines.append("resolv-file=/etc/resolv.conf")
    return _common(address, hosts=hosts, ipv6=ipv6) + "\n".join(lines) + "\ndomain-needed\ncache-size=1000\n"


def render_hosts(records: DnsRecords) -> str:
    """Return the hosts file of `records`. Raises BadInput for a name or an address that is none."""
    lines = []
    for service in sorted(records.services):
        check_name(service, what="service")
        for pair in records.services[service]:
            lines += [f"{address} {service}.{ZONE}" for address in (_address(pair.v4), _address(pair.v6))]
    text = "".join(f"{line}\n" for line in lines)
    return f"{text}{_MARK} {generation(text)}.{ZONE}\n"


def generation(text: str) -> str:
    """Return the name, below our zone, that a hosts file made of `text` holds besides: who answers it has read the
    whole file."""
    return f"{hashlib.sha256(text.partition(f'{_MARK} ')[0].encode()).hexdigest()[:32]}.generation"


def _common(address: AddressPair, *, hosts: str, ipv6: bool) -> str:
    listen6 = f"listen-address={address.v6}\n" if ipv6 else ""
    return _COMMON.format(v4=address.v4, listen6=listen6, hosts=hosts, zone=ZONE)


def _address(text: str) -> str:
    # the standard library takes any text after a percent sign for an interface, line breaks and all
    try:
        address = ipaddress.ip_address("" if "%" in text else text)
    except ValueError as error:
        raise BadInput(f"cannot answer with {text!r}: it is no address") from error
    return str(address)
