"""Ports, routes and egress of a spec."""

from __future__ import annotations

import ipaddress
import re

from nebh.model.service import Egress, Route
from nebh.spec.read import Reader, Value
from nebh.spec.tls import parse_tls

_EGRESS = re.compile(
    r"(?P<net>\[[0-9A-Fa-f:.]+\](?:/\d{1,3})?|[^\s:\[\]]+)(?::(?P<port>\d{1,5}|\*))?(?:/(?P<proto>[a-z]+))?"
)


def parse_ports(reader: Reader, root: Value) -> dict[str, int]:
    """Return port numbers by name; a number may have one name only."""
    value = root.get("ports")
    found: dict[str, int] = {}
    for name, one in value.data.items() if value is not None else ():
        same = next((other for other, number in found.items() if number == one.data), None)
        if same is not None:
            reader.complain(one, one.path, f"port {one.data} is already named `{same}`", "use one name")
        found[name] = one.data
    return found


def resolve_port(reader: Reader, section: Value, ports: dict[str, int]) -> int:
    """Return the number that `section.port` means, 0 after a problem."""
    value = section.get("port")
    path = f"{section.path}.port"
    if any(one.path.startswith(("ports", path)) for one in reader.problems):
        return 0
    known = ", ".join(f"{name} ({number})" for name, number in ports.items())
    if value is None:
        if len(ports) == 1:
            return next(iter(ports.values()))
        hint = f"known: {known}" if ports else "declare it: `ports: {http: 8080}`"
        reader.complain(section, path, "it is missing, and the service has not exactly one port", hint)
        return 0
    text = str(value.data)
    if text in ports:
        return ports[text]
    if text.isdigit() and int(text) in ports.values():
        return int(text)
    hint = f"known: {known}" if ports else f"declare it: `ports: {{{text if not text.isdigit() else 'http'}: 8080}}`"
    reader.complain(value, path, f"no port `{text}` in `ports`", hint)
    return 0


def parse_routes(reader: Reader, root: Value, ports: dict[str, int]) -> tuple[Route, ...]:
    """Return the routes; each public name or port once."""
    value = root.get("routes")
    seen: dict[tuple[str, str, int], int] = {}
    found = []
    for number, one in enumerate(value.data if value is not None else ()):
        route = _route(reader, one, ports)
        claim = (route.host, route.path, route.tcp_port)
        if claim in seen:
            reader.complain(one, one.path, f"the same as routes[{seen[claim]}]", "remove one of them")
        seen.setdefault(claim, number)
        found.append(route)
        first = next((other for other in found if other.host == route.host and other.tls is not None), None)
        if first is not None and route.tls is not None and first.tls != route.tls:
            hint = "write the same at each; a host answers with one"
            reader.complain(one, f"{one.path}.tls", f"{route.host} has another certificate at an earlier route", hint)
    return tuple(found)


def _route(reader: Reader, value: Value, ports: dict[str, int]) -> Route:
    port = resolve_port(reader, value, ports)
    tcp = value.get("tcp")
    if tcp is not None:
        for key in ("host", "path", "tls"):
            wrong = value.get(key)
            if wrong is not None:
                hint = "a tcp route leads bytes through as they are; remove one of them"
                reader.complain(wrong, wrong.path, f"`{key}` and `tcp` do not go together", hint)
        return Route(port=port, tcp_port=tcp.data)
    host, prefix = value.get("host"), value.get("path")
    path = str(prefix.data) if prefix is not None else "/"
    if ".." in path.split("/") or "//" in path:
        reader.complain(prefix or value, f"{value.path}.path", f"`{path}` is not a plain path", "no // or ..")
    tls = value.get("tls")
    files = None
    if tls is not None:
        if host is None:
            reader.complain(tls, tls.path, "a certificate is for a host", "add `host:`")
        files = parse_tls(reader, tls)
    return Route(port=port, host=str(host.data) if host is not None else "", path=path, tls=files)


def parse_egress(reader: Reader, root: Value) -> tuple[Egress, ...]:
    """Return what may be reached outside: `dns`, `198.51.100.0/24:443`, `[2001:db8::]/32:53/udp`."""
    value = root.get("egress")
    found = []
    for one in value.data if value is not None else ():
        rule, message, hint = _egress(str(one.data))
        if message:
            reader.complain(one, one.path, message, hint)
        found.append(rule)
    return tuple(found)


def _egress(text: str) -> tuple[Egress, str, str]:
    nothing = Egress(cidr="dns")
    if text == "dns":
        return nothing, "", ""
    example = 'write "dns", "198.51.100.0/24:443", "0.0.0.0/0:443" or "[2001:db8::]/32:53/udp"'
    match = _EGRESS.fullmatch(text)
    if match is None:
        return nothing, f"`{text}` is not network:port", example
    try:
        network = ipaddress.ip_network(match["net"].replace("[", "").replace("]", ""))
    except ValueError as error:
        if re.fullmatch(r"[A-Za-z0-9.-]*[A-Za-z-][A-Za-z0-9.-]*", match["net"]):
            return (
                nothing,
                f"`{match['net']}` is a name; egress is by address",
                f"addresses can be signed, names change; {example}",
            )
        return nothing, f"`{text}`: {error}", example
    protocol, port = match["proto"] or "tcp", match["port"] or ""
    if protocol not in {"tcp", "udp"}:
        return nothing, f"`{protocol}` is neither tcp nor udp", example
    if not port:
        return nothing, f"`{text}` names no port", f"add `:443`, or `:*` for every port; {example}"
    number = 0 if port == "*" else int(port)
    if port != "*" and not 1 <= number <= 65535:
        return nothing, f"{port} is not a port", "ports go from 1 to 65535"
    return Egress(cidr=str(network), port=number, protocol=protocol), "", ""
