"""Mail, as operators see it. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.event import Severity


@dataclass(frozen=True, kw_only=True)
class MailState:
    """How mail stands. server: HOST:PORT, "" = none is set up; least: severity from which events go out; waiting: events
    that are still to be told; sent_at: of the last mail, failing_since: since when none goes out, 0 = never; error: what
    the server said last."""

    server: str = ""
    to: tuple[str, ...] = ()
    least: Severity = Severity.WARNING
    waiting: int = 0
    sent_at: int = 0
    failing_since: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class MailTest:
    """What came of a test. server: HOST:PORT; said: in the server's own words."""

    ok: bool
    server: str
    to: tuple[str, ...]
    said: str
    hint: str = ""
