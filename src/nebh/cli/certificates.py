"""Certificates of routes: what nodes say they have, and what a value must be to become one."""

from __future__ import annotations

import argparse
import time

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.model.certificate import CertificateRow
from nebh.model.policy import Policy
from nebh.model.quantities import render_duration
from nebh.planning.tls import HOUR, secret_hosts
from nebh.wire import codec


def show_certificates(options: argparse.Namespace, out: Output) -> int:
    """List certificates."""
    found = [
        (node.name, one)
        for node in Session(options, out).client.nodes()
        for one in (node.report.certificates if node.report is not None else ())
        if options.service in ("", one.service)
    ]
    if out.json_wanted:
        out.document({"certificates": [{"node": node, **codec.to_plain(one)} for node, one in found]})
        return 0
    now = int(time.time() * 1000)
    heads = ("HOST", "SERVICE", "NODE", "SOURCE", "ENDS", "ISSUER", "STATE")
    out.table(
        heads,
        [
            (one.host, one.service, node, one.source, _day(one.not_after), one.issuer or "-", _state(one, now))
            for node, one in found
        ],
    )
    for _, one in found:
        if one.problem:
            out.say(f"{one.host}: {out.paint(_flat(one.problem), 'yellow')}")
    return 0


def _state(one: CertificateRow, now: int) -> str:
    if one.not_after and one.not_after <= now:
        return "expired"
    tried = f"tried again at {_day(one.next_try)}" if one.next_try else ""
    if not one.not_after:
        return f"waiting, no HTTPS; {tried}" if tried else "waiting, no HTTPS"
    left = one.not_after - now
    serves = f"serves, {render_duration(left - left % HOUR if left > HOUR else left - left % 1000)} left"
    return f"{serves}; renewal failed, {tried}" if tried else serves


def _day(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at / 1000)) if at else "-"


def _flat(text: str) -> str:
    return harmless(" ".join(text.split()))


def check_certificate(policy: Policy | None, name: str, value: bytes, *, what: str) -> None:
    """See that a value is a certificate chain and its key, where a signed policy's routes use the secret for that, for
    all their hosts. Raises BadInput."""
    hosts = secret_hosts(policy, name) if policy is not None else ()
    if hosts:
        from nebh.signing.tls_pem import read_bundle

        read_bundle(value, hosts=hosts, now=int(time.time() * 1000), what=f"this value of {what}")
