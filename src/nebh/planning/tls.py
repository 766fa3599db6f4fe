"""Certificates of a node's routes: which hosts need one, when to ask for the next, what to say ahead of its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nebh.model.policy import Policy
from nebh.model.service import Route, RouteTls

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
WARNED_DAYS = (30, 7, 1)
LONGEST_USE = 60 * DAY
"""A certificate is renewed after this long at the latest, whatever it says of its own end."""
FIRST_PAUSE, MOST_PAUSE, MOST_HONOURED = MINUTE, HOUR, 7 * DAY


@dataclass(frozen=True, kw_only=True)
class ManagedHost:
    """A host whose certificate the executor gives to the proxy."""

    host: str
    service: str
    tls: RouteTls


def tls_secrets(routes: Iterable[Route]) -> tuple[str, ...]:
    """Return the names of the secrets that routes have certificates in."""
    return tuple(sorted({route.tls.secret for route in routes if route.tls is not None and route.tls.secret}))


def secret_hosts(policy: Policy, name: str) -> tuple[str, ...]:
    """Return the hosts that the certificate in a secret must be for."""
    found = {route.host.lower() for route in policy.net.routes if route.tls is not None and route.tls.secret == name}
    return tuple(sorted(found))


def managed_hosts(policies: Mapping[str, Policy]) -> dict[str, ManagedHost]:
    """Return, by host, those whose certificate is a secret or the node's own. Of two services the first by name has it."""
    found: dict[str, ManagedHost] = {}
    for service in sorted(policies):
        for route in policies[service].net.routes:
            if route.tls is not None and not route.tls.is_file and not route.tcp_port:
                host = route.host.lower()
                found.setdefault(host, ManagedHost(host=host, service=service, tls=route.tls))
    return dict(sorted(found.items()))


def renew_at(*, not_before: int, not_after: int, obtained_at: int) -> int:
    """Return when to ask for the next certificate, all in Unix ms: with a third of its life left."""
    return min(not_after - (not_after - not_before) // 3, obtained_at + LONGEST_USE)


def pause_after(failures: int, *, asked: int = 0) -> int:
    """Return ms until the next try after so many failures in a row. asked: what the authority asked for (Retry-After),
    in ms; more than MOST_HONOURED is a lie or a mistake."""
    pause: int = FIRST_PAUSE * 4 ** min(max(failures, 1) - 1, 8)
    return max(min(pause, MOST_PAUSE), min(asked, MOST_HONOURED))


def days_to_warn(*, now: int, not_before: int, not_after: int, warned: int) -> int:
    """Return of which of WARNED_DAYS it is time to warn, 0 = of none. warned: the one said last for this certificate, 0 =
    none. A day counts only where a certificate lives at least twice as long."""
    left = not_after - now
    due = [days for days in WARNED_DAYS if left <= days * DAY and 2 * days * DAY <= not_after - not_before]
    days = min(due, default=0)
    return days if days and (not warned or days < warned) else 0


_ADVICE = {
    "dns": "point the A and AAAA records of {host} to this node, then wait: it is tried again by itself",
    "connection": "port 80 of this node must be reachable from outside under {host}: look at firewalls, and whether its "
    "A and AAAA records lead here",
    "unauthorized": "something else answers at {host}: its A and AAAA records must lead to this node alone",
    "incorrectResponse": "something else answers at {host}: its A and AAAA records must lead to this node alone",
    "caa": "a CAA record of the domain forbids this authority: change it, or take another `directory`",
    "rateLimited": "the authority's limit is reached; it is tried again when the authority allows",
    "rejectedIdentifier": "the authority gives no certificate for {host}: take another name or `directory`",
    "externalAccountRequired": "this authority wants an account made by hand: take another `directory`",
    "userActionRequired": "the authority wants something of you: follow the address in its words",
    "invalidContact": "give another `email`",
    "unsupportedContact": "give another `email`",
    "unreachable": "this node must reach {directory}: look at its network, name resolution and clock",
    "certificate": "the authority, or whatever stands before it, is not what `directory` and `ca` say; is this node's "
    "clock right?",
}


def advise(kind: str, *, host: str, directory: str) -> str:
    """Return what to do about a failure. kind: the last part of an ACME error's type, `unreachable` or `certificate`."""
    text = _ADVICE.get(kind, "it is tried again by itself; the authority's own words tell more")
    return text.format(host=host, directory=directory)
