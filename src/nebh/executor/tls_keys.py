"""Chains and keys for routes, as the proxy gets them: of secrets, opened here, and of the node's own certificates.

They are held in this process's memory, as the proxy holds them in its own: every cold start and reload of the proxy needs
them, and a secret that cannot be opened just now must not take a host down.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from nebh.executor.context import Context
from nebh.executor.secrets import open_held
from nebh.model.certificate import CertificateRow
from nebh.model.errors import BadInput, NebhError, Refused
from nebh.model.event import Severity
from nebh.model.policy import Policy
from nebh.model.secret import key_of
from nebh.planning.tls import ManagedHost, managed_hosts, secret_hosts, tls_secrets
from nebh.signing.acme_account import thumbprint
from nebh.signing.tls_pem import Bundle, make_key, read_bundle


@dataclass(frozen=True, kw_only=True)
class _Held:
    """mark: which version of what it was read from."""

    mark: str
    bundle: Bundle


class TlsKeys:
    """By host. Thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._thumbprints: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()

    def pems(self, policies: Mapping[str, Policy]) -> dict[str, bytes]:
        """Return chain and key of each host that has them now. What cannot be read is said once; what was there before
        stays."""
        with self._lock:
            hosts = managed_hosts(policies)
            for one in hosts.values():
                self._look(one)
            self._held = {host: held for host, held in self._held.items() if host in hosts}
            return {host: held.bundle.pem for host, held in self._held.items()}

    def bundle(self, host: str) -> Bundle | None:
        """Return what a host has now, as far as `pems` saw it."""
        with self._lock:
            held = self._held.get(host)
            return held.bundle if held is not None else None

    def challenges(self, policies: Mapping[str, Policy]) -> dict[str, str]:
        """Return the account's thumbprint by host, for those that get their certificate from an authority."""
        found = {}
        for host, one in managed_hosts(policies).items():
            if one.tls.acme is not None:
                directory = one.tls.acme.directory
                if directory not in self._thumbprints:
                    account = self._context.accepted.certificates.account(directory, make_key)
                    self._thumbprints[directory] = thumbprint(account)
                found[host] = self._thumbprints[directory]
        return found

    def _look(self, one: ManagedHost) -> None:
        mark, known = "", self._held.get(one.host)
        try:
            if one.tls.secret:
                mark, data = self._secret(key_of(one.service, one.tls.secret), known)
            else:
                own = self._context.accepted.certificates.find(one.host)
                mark, data = (f"acme {own.obtained_at}", own.pem) if own is not None else ("", b"")
            if not data or (known is not None and known.mark == mark):
                return
            # of whatever age: an expired certificate shows who is there, plain HTTP instead would not
            bundle = read_bundle(data, hosts=(one.host,), now=None, what=f"the certificate of {one.host}")
        except (BadInput, Refused) as error:
            self._say(one, mark, error)
            return
        self._held[one.host] = _Held(mark=mark, bundle=bundle)

    def _secret(self, key: str, known: _Held | None) -> tuple[str, bytes]:
        """Return (which version, value): the value is b"" where it is known already, or there is none."""
        held = self._context.accepted.secrets.held(key)
        mark = f"{key} {held.version} {held.digest}" if held is not None else ""
        if held is None or (known is not None and known.mark == mark):
            return mark, b""
        return mark, open_held(self._context, key)

    def _say(self, one: ManagedHost, mark: str, error: NebhError) -> None:
        if (one.host, mark) in self._said:
            return
        self._said.add((one.host, mark))
        self._context.tell(
            "certificate.refused",
            f"{error.message}; {'the one before serves on' if one.host in self._held else 'it has no HTTPS'}",
            severity=Severity.ALARM,
            service=one.service,
            hint=error.hint,
            facts={"host": one.host},
        )

    def rows(self, policies: Mapping[str, Policy]) -> tuple[CertificateRow, ...]:
        """Return every certificate of this node's routes, as people see it."""
        found = []
        for host, one in managed_hosts(policies).items():
            bundle = self.bundle(host)
            own = self._context.accepted.certificates.find(host) if one.tls.acme is not None else None
            found.append(
                CertificateRow(
                    host=host,
                    service=one.service,
                    source=f"secret {one.tls.secret}" if one.tls.acme is None else one.tls.acme.directory,
                    not_before=bundle.not_before if bundle else 0,
                    not_after=bundle.not_after if bundle else 0,
                    issuer=bundle.issuer if bundle else "",
                    problem=own.problem if own else "",
                    next_try=own.next_try if own else 0,
                )
            )
        return tuple(found)


def check_secrets(context: Context, policy: Policy) -> None:
    """See that the secrets that a policy's routes have certificates in are such, now. Raises Refused."""
    for name in tls_secrets(policy.net.routes):
        key = key_of(policy.service, name)
        check_value(context, policy, key, open_held(context, key))


def check_value(context: Context, policy: Policy | None, key: str, value: bytes) -> None:
    """See that a value is a certificate and key for the hosts that a policy's routes use it for; any is, where none do.
    Raises Refused."""
    hosts = secret_hosts(policy, key.partition("/")[2]) if policy is not None else ()
    if not hosts:
        return
    try:
        read_bundle(value, hosts=hosts, now=context.clock.now_ms(), what=f"the secret {key}")
    except BadInput as error:
        raise Refused(error.message, rule="tls", hint=error.hint) from error
