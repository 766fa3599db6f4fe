"""Certificates of routes over time: asked for, renewed ahead of their end, warned of, given to the proxy.

The key of a host's own certificate is made here and never leaves: an authority gets a request signed by it, and what
comes back is used only where it fits that key and that host, and leads to an authority that counts. A crash at any point
leaves the old certificate or the new one, and the pending key is asked for again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

from nebh.executor.acme import AuthorityProblem, obtain
from nebh.executor.context import Context
from nebh.executor.dataplane import Dataplane
from nebh.executor.effects import hot_effect
from nebh.host.files import read_bounded
from nebh.journal.certificates import OwnCertificate
from nebh.model.errors import BadInput, NebhError, Unreachable
from nebh.model.event import Severity
from nebh.model.secret import key_of, rotation_nonce
from nebh.model.service import Acme
from nebh.model.statement import Outcome
from nebh.planning.tls import (
    HOUR,
    MOST_HONOURED,
    ManagedHost,
    advise,
    days_to_warn,
    managed_hosts,
    pause_after,
    renew_at,
)
from nebh.signing.acme_account import Signer
from nebh.signing.tls_pem import Bundle, accept_chain, make_key, make_request

SYSTEM_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_LIMIT = 4 << 20
_LOOKS_EVERY = 600.0
_GIVEN, _WARNED = "tls-given", "tls-warned"


class CertificateKeeper:
    """One thread. `wake` after whatever changed routes."""

    def __init__(self, context: Context, plane: Dataplane) -> None:
        self._context, self._plane = context, plane
        self._bell = threading.Event()
        self._asking = threading.Lock()

    def start(self) -> None:
        """Look after certificates until the executor stops."""
        threading.Thread(target=self._run, name="certificates", daemon=True).start()

    def wake(self) -> None:
        """Look now."""
        self._bell.set()

    def _run(self) -> None:
        while not self._context.stopping.is_set():
            self._bell.clear()
            try:
                pause = self.look() / 1000
            except (NebhError, OSError) as error:
                pause = 60.0
                if not self._context.stopping.is_set():
                    self._context.tell(
                        "certificate.trouble", f"cannot look after certificates: {error}", severity=Severity.ALARM
                    )
            self._bell.wait(max(0.05, min(pause, _LOOKS_EVERY)))

    def look(self) -> int:
        """Ask for what is due, warn of what ends; return ms until the next is due."""
        hosts = managed_hosts(self._plane.policies())
        for one in hosts.values():
            if one.tls.acme is not None and self._due(one) <= 0 and not self._context.stopping.is_set():
                self.ask(one, one.tls.acme)
            self._warn(one)
        self._context.accepted.certificates.forget(set(hosts), now=self._context.clock.now_ms())
        return min([HOUR, *(max(self._due(one), 0) for one in hosts.values() if one.tls.acme is not None)])

    def _due(self, one: ManagedHost) -> int:
        """Return ms until a host's certificate is to be asked for."""
        now, own = self._context.clock.now_ms(), self._context.accepted.certificates.find(one.host)
        assert one.tls.acme is not None
        if own is None or own.directory != one.tls.acme.directory:
            return 0
        if own.next_try:
            return own.next_try - now if own.next_try - now <= MOST_HONOURED else 0  # else the clock went back
        due = renew_at(not_before=own.not_before, not_after=own.not_after, obtained_at=own.obtained_at)
        return due - now if own.pem else 0

    # ------------------------------------------------------------------------------------- the node's own

    def ask(self, one: ManagedHost, acme: Acme) -> None:
        """Get a certificate for a host and give it to the proxy, or say why not and when it is tried again."""
        with self._asking:
            context = self._context
            own = self._pending(one, acme)
            try:
                bundle = self._obtain(own, acme)
            except (NebhError, OSError) as error:
                self._failed(one, own, acme, error)
                return
            now = context.clock.now_ms()
            with context.database.atomically():
                context.accepted.certificates.put(
                    OwnCertificate(
                        host=own.host,
                        directory=own.directory,
                        pem=bundle.pem,
                        not_before=bundle.not_before,
                        not_after=bundle.not_after,
                        issuer=bundle.issuer,
                        obtained_at=now,
                    )
                )
                context.event(
                    "certificate.obtained",
                    f"{one.host} has a certificate of {bundle.issuer} until {_day(bundle.not_after)}",
                    service=one.service,
                    facts={"host": one.host, "directory": own.directory, "not_after": str(bundle.not_after)},
                )
        self._install(one.host)

    def _pending(self, one: ManagedHost, acme: Acme) -> OwnCertificate:
        """Return the host's row with a key to ask for, durable before anybody hears of it."""
        rows = self._context.accepted.certificates
        own = rows.find(one.host) or OwnCertificate(host=one.host, directory=acme.directory)
        if own.directory != acme.directory:  # what it has serves on until the other authority's is there
            own = replace(own, directory=acme.directory, failures=0, problem="")
        if not own.next_key:
            own = replace(own, next_key=make_key())
        rows.put(own)
        return own

    def _obtain(self, own: OwnCertificate, acme: Acme) -> Bundle:
        context = self._context
        authorities = _read_authorities(acme.ca)
        signer = Signer(
            account=context.accepted.certificates.account(acme.directory, make_key),
            host=own.host,
            email=acme.email,
            request=make_request(own.next_key, own.host),
        )
        chain = obtain(
            context.layout.agent_socket,
            directory=acme.directory,
            ca=authorities.decode(errors="replace") if acme.ca else "",
            signer=signer,
        )
        return accept_chain(
            chain,
            key=own.next_key,
            host=own.host,
            now=context.clock.now_ms(),
            authorities=authorities,
            what=f"what {acme.directory} gave for {own.host}",
        )

    def _failed(self, one: ManagedHost, own: OwnCertificate, acme: Acme, error: Exception) -> None:
        context = self._context
        if context.stopping.is_set():
            return
        asked = error.asked if isinstance(error, AuthorityProblem) else 0
        kind = _kind_of(error)
        pause = pause_after(own.failures + 1, asked=asked)
        text = error.message if isinstance(error, NebhError) else str(error)
        now = context.clock.now_ms()
        failed = replace(own, failures=own.failures + 1, problem=text[:1000], next_try=now + pause)
        serves = f"the one it has ends on {_day(own.not_after)}" if own.pem else "it has no HTTPS yet"
        hint = error.hint if isinstance(error, BadInput) else ""
        with context.database.atomically():
            context.accepted.certificates.put(failed)
            context.event(
                "certificate.failed",
                f"cannot get a certificate for {one.host} from {acme.directory}: {text}; {serves}; tried again "
                f"at {_day(failed.next_try)}",
                severity=Severity.WARNING if own.pem else Severity.ALARM,
                service=one.service,
                hint=hint or advise(kind, host=one.host, directory=acme.directory),
                facts={"host": one.host, "kind": kind, "failures": str(failed.failures)},
            )

    def _install(self, host: str) -> None:
        """Give the proxy what there is now. What does not work is done again at the next start, or the next change."""
        try:
            with hot_effect("certificate.install"):
                self._plane.configure_ingress()
        except (NebhError, OSError) as error:
            self._context.tell(
                "certificate.trouble",
                f"cannot give the proxy the certificate of {host}: {error}",
                severity=Severity.ALARM,
                hint="the one before serves on; a restart of nebh-executor tries again",
            )
            raise

    # ------------------------------------------------------------------------------------- secrets

    def give(self, service: str, names: tuple[str, ...], *, also: frozenset[str]) -> bool:
        """Have the proxy serve what these secrets hold now, and say so once for each version; return whether it does.
        also: names whose rotation is said by what gives them to containers."""
        context = self._context
        marks = {}
        for name in names:
            held = context.accepted.secrets.held(key_of(service, name))
            mark = f"{held.version}" if held is not None else ""
            if mark and context.accepted.meta(f"{_GIVEN}/{service}/{name}") != mark:
                marks[name] = mark
        if not marks:
            return True
        try:
            self._install(service)
        except (NebhError, OSError):
            return False
        with context.database.atomically():
            for name, mark in marks.items():
                context.accepted.set_meta(f"{_GIVEN}/{service}/{name}", mark)
                self._say_given(service, name, int(mark), receipt=name not in also)
        return True

    def _say_given(self, service: str, name: str, version: int, *, receipt: bool) -> None:
        context, key = self._context, key_of(service, name)
        text = f"{service}: version {version} of secret {key} answers for its routes"
        facts = {"secret": key, "version": str(version)}
        context.event("certificate.rotated", text, service=service, facts=facts)
        listed = context.accepted.secrets.listed().get(key)
        if receipt and listed is not None and listed.version == version:
            context.receipt(
                Outcome.ROTATED, nonce=rotation_nonce(listed), service=service, detail=f"version {version} at the proxy"
            )

    # ------------------------------------------------------------------------------------- ahead of the end

    def _warn(self, one: ManagedHost) -> None:
        context, bundle = self._context, self._plane.tls.bundle(one.host)
        if bundle is None:
            return
        known = context.accepted.meta(f"{_WARNED}/{one.host}").partition(" ")
        warned = int(known[2]) if known[0] == str(bundle.not_after) else 0
        now = context.clock.now_ms()
        days = days_to_warn(now=now, not_before=bundle.not_before, not_after=bundle.not_after, warned=warned)
        own = context.accepted.certificates.find(one.host) if one.tls.acme is not None else None
        if not days or (own is not None and not own.failures):  # its renewal is under way
            return
        said = "has expired" if bundle.not_after <= now else "expires"
        hint = f"`nebh secret set {key_of(one.service, one.tls.secret)}` with a new one"
        if one.tls.acme is not None:
            hint = f"its renewal fails: {own.problem}" if own else ""
        with context.database.atomically():
            context.accepted.set_meta(f"{_WARNED}/{one.host}", f"{bundle.not_after} {days}")
            context.event(
                "certificate.expiring",
                f"the certificate of {one.host} {said} on {_day(bundle.not_after)}",
                severity=Severity.ALARM if days <= 7 else Severity.WARNING,
                service=one.service,
                hint=hint,
                facts={"host": one.host, "days": str(days), "not_after": str(bundle.not_after)},
            )


def _kind_of(error: Exception) -> str:
    if isinstance(error, AuthorityProblem):
        return error.kind
    return "unreachable" if isinstance(error, Unreachable) else "certificate" if isinstance(error, BadInput) else ""


def _read_authorities(path: str) -> bytes:
    """Return the authorities that count, as PEM. Raises BadInput."""
    for one in (path,) if path else SYSTEM_AUTHORITIES:
        try:
            return read_bounded(Path(one).resolve(), limit=_LIMIT)
        except OSError as error:
            if path:
                raise BadInput(
                    f"cannot read the authorities in {path}: {error.strerror or error}",
                    hint="`ca` is a path on this node",
                ) from error
    raise BadInput(
        "cannot find the system's certificate authorities", hint="install ca-certificates, or name yours by `ca`"
    )


def _day(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at / 1000))
