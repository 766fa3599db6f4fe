"""Where a fenced program may connect to: the internet, and the few internal places that a person named."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from nebh.model.errors import BadInput

_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")
# An IPv4 address in an IPv6 one, and how many bits stand after it: NAT64 (RFC 6052, RFC 8215) and 6to4.
_EMBEDDED: Final = (
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)
_NOT_GLOBAL: Final = ipaddress.IPv4Network("192.88.99.0/24")  # relays of 6to4, which Python takes for global


@dataclass(frozen=True, kw_only=True)
class Place:
    """A host (name or address, in lower case, without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> tuple[str, ...]:
        """The loopback addresses it names; none for another host. Programs ask no proxy for these."""
        if self.host == "localhost":
            return "127.0.0.1", "::1"
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(self.host)
            return (str(address),) if address.is_loopback else ()
        return ()


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """Somebody else's proxy. authorization: the value of Proxy-Authorization, "" for none."""

    place: Place
    tls: bool
    authorization: str = ""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """named: places that may be internal. proxies: by the scheme of what is asked for (`http`, `https`); they make the
    connections then, except those to hosts that `direct` (as NO_PROXY is written) names."""

    named: frozenset[Place] = frozenset()
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    direct: str = ""

    def proxy_for(self, scheme: str, host: str) -> Proxy | None:
        """Return the proxy to ask, or None where the connection is our own."""
        proxy = self.proxies.get(scheme)
        return None if proxy is None or _is_direct(host, self.direct) else proxy


def parse_place(text: str, *, port: int = 0) -> Place:
    """Read HOST:PORT; `port` counts where none is written. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in text:
        raise ValueError(text)
    number = parts.port or port
    if not number:
        raise ValueError(text)
    return Place(host=parts.hostname, port=number)


def parse_proxy(value: str, *, name: str) -> Proxy:
    """Read a proxy as HTTPS_PROXY names it. name: of the variable, for the error. Raises BadInput."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        usual = {"http": 80, "https": 443}[parts.scheme]
        place = Place(host=parts.hostname or "", port=parts.port or usual)
    except (KeyError, ValueError):
        place = Place(host="", port=0)
    if not place.host:
        raise BadInput(
            f"cannot use the proxy of {name}: it has to be http://HOST:PORT or https://HOST:PORT", hint=f"unset {name}"
        )
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
    given = f"Basic {b64encode(login).decode()}" if parts.username else ""
    return Proxy(place=place, tls=parts.scheme == "https", authorization=given)


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the internet: global, not multicast, no internal IPv4 address inside."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast and not found.is_reserved and found not in _NOT_GLOBAL
    if found.scope_id:
        return False
    if found.ipv4_mapped is not None:
        return is_public(str(found.ipv4_mapped))
    for network, shift in _EMBEDDED:
        if found in network:
            return is_public(str(ipaddress.IPv4Address(int(found) >> shift & 0xFFFFFFFF)))
    return found in _GLOBAL_6 and found.is_global


def is_own(address: str) -> bool:
    """Tell whether connections to this IP address stay on this computer. Nothing is sent to find out."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe, contextlib.suppress(OSError):
        probe.connect((address, 9))
        return bool(probe.getsockname()[0] == address)
    return False


def is_internal(address: str) -> bool:
    """Tell whether others could not reach this IP address as this computer does."""
    return not is_public(address) or is_own(address)


def _is_direct(host: str, direct: str) -> bool:
    """Tell whether NO_PROXY names a host: by itself, a domain above it, a network around it, or with `*`."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        for word in direct.replace(",", " ").split():
            with contextlib.suppress(ValueError):
                if address in ipaddress.ip_network(word, strict=False):
                    return True
    words = [word.lower().removeprefix("*.").removeprefix(".") for word in direct.replace(",", " ").split()]
    return any(word in {"*", host} or (word and host.endswith(f".{word}")) for word in words)
