"""Secrets that routes have certificates in: what the keeper of secrets asks about them."""

from __future__ import annotations

from nebh.executor.certificates import CertificateKeeper
from nebh.executor.context import Context
from nebh.executor.secrets import ProxySecrets
from nebh.executor.tls_keys import check_value
from nebh.planning.tls import tls_secrets


class RouteSecrets(ProxySecrets):
    """Those of the policies in effect."""

    def __init__(self, context: Context, certificates: CertificateKeeper) -> None:
        self._context, self._certificates = context, certificates

    def names(self, service: str) -> tuple[str, ...]:
        """Return the names of a service's secrets that its routes have certificates in."""
        policy = self._context.accepted.effective(service)
        return tls_secrets(policy.net.routes) if policy is not None else ()

    def check(self, key: str, value: bytes) -> None:
        """Raise Refused for a value that the proxy could not use: the one before serves on."""
        check_value(self._context, self._context.accepted.effective(key.partition("/")[0]), key, value)

    def give(self, service: str, *, also: frozenset[str]) -> bool:
        """Have the proxy use what is held now; return whether it does."""
        return self._certificates.give(service, self.names(service), also=also)
