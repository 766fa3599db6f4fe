"""Certificates of routes, as a node reports them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CertificateRow:
    """source: `secret NAME`, or the ACME directory's URL. not_before, not_after: Unix ms, 0 = there is none yet; problem:
    why the newest try failed, "" = it did not; next_try: Unix ms, 0 = none is planned."""

    host: str
    service: str
    source: str
    not_before: int = 0
    not_after: int = 0
    issuer: str = ""
    problem: str = ""
    next_try: int = 0
