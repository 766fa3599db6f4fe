"""HAProxy's files as pure functions of what the proxy should know.

A Backend of the plan has a number for life. Its HTTP side is the backend `b<number>`, its TCP side (only when it has
TCP routes) `t<number>`. Spare `b` backends and two maps let new services come and go without a reload: the map `routes`
leads `<host><path>/` to a backend (the longest prefix wins), the map `secure` says by the same
keys whose requests are sent to HTTPS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nebh.model.errors import BadInput
from nebh.model.network import Backend, IngressPlan, Slot, SlotState
from nebh.model.service import Route

SPARE_BACKENDS = 64
SPARE_SLOTS = 8
SHARED_WEIGHT = 100
ANY_HOST = "*"
FREE_ADDRESS = "0.0.0.0:80"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Absolute paths of the files that the texts name."""

    admin_socket: str
    master_socket: str
    routes: str
    secure: str
    certificates: str
    bundles: str
    challenges: str
    keys: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All that the texts depend on. numbers: by Backend.key. bundles: PEM file name by host. ipv6: listen there too."""

    plan: IngressPlan
    numbers: Mapping[str, int]
    bundles: Mapping[str, str] = field(default_factory=dict)
    ipv6: bool = True


def number_backends(plan: IngressPlan, known: Mapping[str, int]) -> dict[str, int]:
    """Return a number for each backend of the plan: the known one, or the lowest that nobody has."""
    numbers = {backend.key: known[backend.key] for backend in plan.backends if backend.key in known}
    taken = set(numbers.values())
    lowest = 0
    for key in sorted(backend.key for backend in plan.backends if backend.key not in known):
        while lowest in taken:
            lowest += 1
        numbers[key] = lowest
        taken.add(lowest)
    return numbers


def check_routes(plan: IngressPlan) -> None:
    """Raise BadInput for routes that no map can hold, or that two backends claim."""
    claimed: dict[str, str] = {}
    for backend in plan.backends:
        for route in backend.routes:
            text = f"{route.host}{route.path}"
            if not text.isprintable() or set(text) & set(' "\\#;'):
                raise BadInput(
                    f"cannot route {text!r} to {backend.service}: a host or path holds a forbidden character"
                )
            if "/" in route.host or route.host.startswith("."):
                raise BadInput(f"cannot route {text!r} to {backend.service}: its host is no host name")
            claim = f"TCP port {route.tcp_port}" if route.tcp_port else f"`{route_key(route)[:-1]}`"
            if route.tcp_port in {plan.http_port, plan.https_port} - {0}:
                raise BadInput(f"cannot route {claim} to {backend.service}: HTTP has that port")
            if claimed.setdefault(claim, backend.key) != backend.key:
                raise BadInput(f"cannot route {claim} to {backend.key}: {claimed[claim]} has it")


def names_of(backend: Backend, number: int) -> tuple[str, ...]:
    """Return the names of HAProxy's backends for one of ours."""
    return (f"b{number}", f"t{number}") if tcp_ports(backend) else (f"b{number}",)


def tcp_ports(backend: Backend) -> tuple[int, ...]:
    """Return the node's TCP ports that lead to a backend."""
    return tuple(sorted({route.tcp_port for route in backend.routes if route.tcp_port}))


def secure_hosts(plan: IngressPlan) -> dict[str, Route]:
    """Return the first route with a certificate by host."""
    found: dict[str, Route] = {}
    for backend in plan.backends:
        for route in backend.routes:
            if route.tls is not None and not route.tcp_port:
                found.setdefault(route.host.lower(), route)
    return dict(sorted(found.items()))


def managed_hosts(plan: IngressPlan) -> dict[str, bytes]:
    """Return the PEM by host of those that have one which is no file of the node."""
    hosts = secure_hosts(plan)
    return {
        host: plan.pems[host]
        for host, route in hosts.items()
        if host in plan.pems and route.tls and not route.tls.is_file
    }


def key_place(host: str, places: Places) -> str:
    """Return the name that the proxy knows a host's chain and key by: a file only while it starts or reloads."""
    return f"{places.keys}/{host}.pem"


def ports_of(plan: IngressPlan) -> tuple[int, ...]:
    """Return every TCP port that the proxy listens on for this plan."""
    ports = {port for backend in plan.backends for port in tcp_ports(backend)} | {plan.http_port}
    return tuple(sorted((ports | {plan.https_port} if secure_hosts(plan) else ports) - {0}))


def route_key(route: Route) -> str:
    """Return the key of an HTTP route: a prefix of `<host><path>/`, ended by `/` so that `/api` is not `/apix`."""
    return f"{route.host.lower() or ANY_HOST}/{route.path.strip('/')}".rstrip("/") + "/"


def routes_map(layout: Layout) -> dict[str, str]:
    """Return the HTTP routes: backend name by key."""
    pairs = {
        route_key(route): f"b{layout.numbers[backend.key]}"
        for backend in layout.plan.backends
        for route in backend.routes
        if not route.tcp_port
    }
    return dict(sorted(pairs.items()))


def secure_map(layout: Layout) -> dict[str, str]:
    """Return whose plain requests are sent to HTTPS, by key: those to hosts with a certificate ("1"), but for the
    routes that are declared without one ("0"): an ACME client must be answered on plain HTTP. A host that still waits
    for its certificate goes on over plain HTTP."""
    managed = managed_hosts(layout.plan)
    hosts = {host for host, route in secure_hosts(layout.plan).items() if host in managed or _has_files(route)}
    pairs = {f"{host or ANY_HOST}/": "1" for host in hosts}
    for backend in layout.plan.backends:
        for route in backend.routes:
            if not route.tcp_port and route.host.lower() in hosts:
                pairs[route_key(route)] = "1" if route.tls is not None else "0"
    return dict(sorted(pairs.items()))


def _has_files(route: Route) -> bool:
    return route.tls is not None and route.tls.is_file


def challenges_map(layout: Layout) -> dict[str, str]:
    """Return the thumbprint that tokens of HTTP-01 are answered with, by host."""
    hosts = secure_hosts(layout.plan)
    return {host: text for host, text in sorted(layout.plan.challenges.items()) if host in hosts}


def with_live_states(plan: IngressPlan, live: dict[tuple[str, int], Slot]) -> IngressPlan:
    """Return the plan with the states that slots have now; a slot that is new, or has moved, is in maint. A service's
    slot keeps its state in a backend that is new because the service's port moved."""
    places = {(key.rpartition(":")[0], number, slot.address): slot for (key, number), slot in live.items()}

    def settled(backend: Backend, slot: Slot) -> Slot:
        now = live.get((backend.key, slot.number)) or places.get((backend.service, slot.number, slot.address))
        keeps = now is not None and now.address == slot.address
        return replace(slot, state=now.state if keeps and now is not None else SlotState.MAINT)

    backends = tuple(
        replace(backend, slots=tuple(settled(backend, slot) for slot in backend.slots)) for backend in plan.backends
    )
    return replace(plan, backends=backends)


def map_text(pairs: Mapping[str, str]) -> str:
    """Return a map file."""
    return "".join(f"{key} {value}\n" for key, value in pairs.items())


def certificates_text(layout: Layout, places: Places, *, managed: bool = True) -> str:
    """Return the crt-list file: which PEM bundle answers for which name. managed: those too that are no files of the
    node, which come and go without a reload."""
    lines = [
        f"{places.bundles}/{layout.bundles[host]} {host}".rstrip()
        for host in secure_hosts(layout.plan)
        if host in layout.bundles
    ]
    lines += [f"{key_place(host, places)} {host}" for host in managed_hosts(layout.plan)] if managed else []
    return "".join(f"{line}\n" for line in lines)


def structure_hash(layout: Layout, places: Places) -> str:
    """Return a digest of all that only a reload can change: two layouts with one digest differ in maps and slots."""
    bare = tuple(replace(backend, slots=()) for backend in layout.plan.backends)
    without_slots = replace(layout, plan=replace(layout.plan, backends=bare))
    # a plain HTTP backend is a spare one to HAProxy: only those with TCP routes have a shape of their own
    text = config_text(without_slots, places, slots=False) + certificates_text(without_slots, places, managed=False)
    return hashlib.sha256(text.encode()).hexdigest()


def config_text(layout: Layout, places: Places, *, slots: bool = True) -> str:
    """Return haproxy.cfg. slots=False leaves the servers out (see structure_hash)."""
    parts = [_GLOBAL.format(places=places), _DEFAULTS, _http_frontend(layout, places)]
    if secure_hosts(layout.plan):
        parts.append(_https_frontend(layout, places))
    backends = {layout.numbers[backend.key]: backend for backend in layout.plan.backends}
    for number, backend in sorted(backends.items()):
        parts += [_tcp_frontend(layout, number, port) for port in tcp_ports(backend)]
    for number in range(backend_count(backends)):
        parts.append(f"backend b{number}\n" + _servers(backends.get(number), shown=slots))
    for number, backend in sorted(backends.items()):
        if tcp_ports(backend):
            parts.append(f"backend t{number}\n    mode tcp\n" + _servers(backend, shown=slots))
    return "\n".join(parts)


def backend_count(numbers: Iterable[int]) -> int:
    """Return how many `b` backends there are: enough for these numbers, in steps of SPARE_BACKENDS."""
    highest = max(numbers, default=0)
    return (highest // SPARE_BACKENDS + 1) * SPARE_BACKENDS


def slot_count(backend: Backend | None) -> int:
    """Return how many servers a backend starts with."""
    return max(SPARE_SLOTS, 1 + max((slot.number for slot in backend.slots), default=-1)) if backend else SPARE_SLOTS


def server_address(slot: Slot, backend: Backend) -> str:
    """Return `ADDRESS:PORT` for a server line."""
    port = slot.port or backend.port
    return f"ipv6@{slot.address}:{port}" if ":" in slot.address else f"{slot.address}:{port}"


def _servers(backend: Backend | None, *, shown: bool) -> str:
    known = {slot.number: slot for slot in backend.slots} if backend else {}
    lines = []
    for number in range(slot_count(backend)) if shown else ():
        slot = known.get(number)
        if backend is None or slot is None or not slot.address:
            lines.append(f"    server s{number} {FREE_ADDRESS} disabled\n")
            continue
        # a config file cannot say "drain": weight 0 gives a server nothing new either
        tail = {SlotState.READY: f"weight {SHARED_WEIGHT}", SlotState.DRAIN: "weight 0", SlotState.MAINT: "disabled"}
        lines.append(f"    server s{number} {server_address(slot, backend)} {tail[slot.state]}\n")
    return "".join(lines)


def _binds(port: int, layout: Layout, extra: str = "") -> str:
    text = f"    bind 0.0.0.0:{port}{extra}\n"
    return text + f"    bind [::]:{port} v6only{extra}\n" if layout.ipv6 else text


def _http_frontend(layout: Layout, places: Places) -> str:
    port = layout.plan.https_port
    target = "https://%[var(txn.host)]" + ("" if port == 443 else f":{port}") + "%[pathq]"
    return (
        "frontend http\n"
        + _binds(layout.plan.http_port, layout)
        + _request_rules(places, scheme="http")
        + _CHALLENGE.format(places=places)
        + f"    http-request redirect code 308 location {target} if {{ var(txn.secure) -m str 1 }}\n"
        + _DISPATCH
    )


def _https_frontend(layout: Layout, places: Places) -> str:
    extra = f" ssl crt-list {places.certificates} strict-sni alpn h2,http/1.1"
    return (
        "frontend https\n"
        + _binds(layout.plan.https_port, layout, extra)
        + _request_rules(places, scheme="https")
        + _DISPATCH
    )


def _tcp_frontend(layout: Layout, number: int, port: int) -> str:
    return f"frontend tcp-{port}\n    mode tcp\n" + _binds(port, layout) + f"    default_backend t{number}\n"


def _request_rules(places: Places, *, scheme: str) -> str:
    return _REQUEST.format(places=places, scheme=scheme, any=ANY_HOST)


_GLOBAL = """\
# Written by nebh-executor; read at a cold start and at a reload.
global
    stats socket {places.admin_socket} mode 600 level admin expose-fd listeners
    stats timeout 1h
    fd-hard-limit 65536
    hard-stop-after 1h
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20
    tune.ssl.default-dh-param 2048
"""

_DEFAULTS = """\
defaults
    mode http
    balance roundrobin
    option redispatch 1
    option dontlognull
    retries 3
    retry-on conn-failure
    http-reuse safe
    default-server pool-purge-delay 2s
    timeout connect 2s
    timeout queue 5s
    timeout http-request 10s
    timeout http-keep-alive 10s
    timeout client 10m
    timeout server 10m
    timeout client-fin 10s
    timeout tunnel 24h
    http-error status 400 content-type "text/plain" string "400: this request cannot be understood\\n"
    http-error status 408 content-type "text/plain" string "408: the request did not arrive in time\\n"
    http-error status 502 content-type "text/plain" string "502: the service gave no valid answer\\n"
    http-error status 503 content-type "text/plain" string "503: no instance of this service is ready\\n"
    http-error status 504 content-type "text/plain" string "504: the service did not answer in time\\n"
"""

# The host may hold no `/`, or one host's name could reach into another's paths.
_REQUEST = """\
    option idle-close-on-response
    http-request set-var(txn.host) req.hdr(host),host_only,lower,rtrim(.)
    http-request deny deny_status 400 if {{ var(txn.host) -m sub / {any} }}
    http-request set-var(txn.path) path
    http-request set-var(txn.key) var(txn.host),concat(,txn.path,/)
    http-request set-var(txn.backend) var(txn.key),map_beg({places.routes})
    http-request set-var(txn.secure) var(txn.key),map_beg({places.secure})
    http-request set-var(txn.anykey) str({any}),concat(,txn.path,/)
    http-request set-var(txn.secure) var(txn.anykey),map_beg({places.secure}) if !{{ var(txn.backend) -m found }}
    http-request set-var(txn.backend) var(txn.anykey),map_beg({places.routes}) if !{{ var(txn.backend) -m found }}
    http-request del-header Forwarded
    http-request del-header X-Forwarded- -m beg
    http-request del-header X-Real-IP
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto {scheme}
"""

# HTTP-01 is answered before any redirect, for every token: it only helps the one account whose key the executor keeps.
_CHALLENGE = """\
    http-request set-var(txn.acme) var(txn.host),map({places.challenges})
    http-request return status 200 content-type "text/plain" lf-string "%[path,field(-1,/)].%[var(txn.acme)]" if \
{{ var(txn.acme) -m found }} {{ path -m reg ^/\\.well-known/acme-challenge/[A-Za-z0-9_-]{{1,256}}$ }}
"""

_DISPATCH = (
    '    http-request return status 404 content-type "text/plain" lf-string '
    '"404: nothing is served at %[var(txn.host)] under this path\\n" if !{ var(txn.backend) -m found }\n'
    "    use_backend %[var(txn.backend)]\n"
)
