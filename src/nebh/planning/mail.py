"""Which events go out by mail, what a mail says, and when the next one may go."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from nebh.model.event import Event, Severity
from nebh.model.mail import MailQueue, MailSettings, MailText, MailTls

MOST = 50
"""Events that one mail tells in words; of more it gives numbers."""
HOUR = 3600
_ORDER = tuple(Severity)
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[A-Za-z0-9.-]{1,253}\Z")
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}\Z")
_LOCAL = ("localhost", "127.0.0.1", "::1")


def problems(settings: MailSettings) -> tuple[str, ...]:
    """Return everything that is wrong with settings, each with the field's name."""
    found = []
    if _HOST.match(settings.host) is None:
        found.append(f"mail.host: {settings.host!r} is no name or address of a server")
    for place, text in (("sender", settings.sender), *(("to", one) for one in settings.to)):
        if _ADDRESS.match(text) is None or not text.isascii():
            found.append(f"mail.{place}: {text!r} is no mail address such as ops@example.org")
    if not 0 < len(settings.to) <= 50:
        found.append("mail.to: name 1 to 50 addresses")
    if not 0 <= settings.port < 65_536:
        found.append(f"mail.port: {settings.port} is no port")
    if bool(settings.user) != bool(settings.password_file):
        found.append("mail.user and mail.password_file: a login needs both")
    if settings.user and settings.tls is MailTls.NONE and not _is_here(settings.host):
        found.append('mail.tls: a password would travel in the open: write "starttls" or "tls"')
    if not 10 <= settings.gap <= HOUR:
        found.append("mail.gap: 10 to 3600 seconds")
    return tuple(found)


def _is_here(host: str) -> bool:
    try:
        return host in _LOCAL or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wanted(settings: MailSettings, event: Event) -> bool:
    """Tell whether an event goes out."""
    if _named(settings.never, event.kind):
        return False
    return _ORDER.index(event.severity) >= _ORDER.index(settings.least) or _named(settings.also, event.kind)


def _named(patterns: tuple[str, ...], kind: str) -> bool:
    return any(kind.startswith(one[:-1]) if one.endswith("*") else kind == one for one in patterns)


def compose(events: Sequence[tuple[int, Event]], *, cluster: str, cloud: str) -> MailText:
    """Return the mail that tells of (cursor, event)s, of which there is at least one. Facts stay out of it: they may hold
    what a program printed. cluster: id; cloud: what people call it."""
    first, last = events[0][0], events[-1][0]
    told = [one for _, one in events[:MOST]]
    worst = max((one for _, one in events), key=lambda one: _ORDER.index(one.severity))
    more = f" (and {len(events) - 1} more)" if len(events) > 1 else ""
    lines = [line for one in told for line in _lines(one)]
    if len(events) > MOST:
        counted = Counter(one.kind for _, one in events[MOST:])
        lines += [
            f"and {len(events) - MOST} more:",
            *(f"  {number} x {_plain(kind)}" for kind, number in counted.most_common(20)),
        ]
    lines += ["", "-- ", f"Nebh, cloud {_plain(cloud)}. `nebh events` shows everything."]
    return MailText(
        id=f"nebh.{cluster[:16]}.{first}-{last}",
        subject=f"[{_plain(cloud)}] {worst.severity}: {_plain(worst.message)[:150]}{more}",
        body="\n".join(lines) + "\n",
    )


def _lines(event: Event) -> list[str]:
    at = datetime.fromtimestamp(event.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    found = [
        f"{at}  {event.severity}  {_plain(event.source)}  {_plain(event.kind)}",
        f"  {_plain(event.message)[:2000]}",
    ]
    if event.hint:
        found.append(f"  hint: {_plain(event.hint)[:1000]}")
    return [*found, ""]


def _plain(text: str) -> str:
    """One line, nothing that a mail program or a terminal would obey: nodes and containers have a say in it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


# when


def after_sending(queue: MailQueue, settings: MailSettings, *, cursor: int, now: int) -> MailQueue:
    """Return the queue once a mail went out. The wait doubles while each mail follows the one before without a pause."""
    busy = queue.sent_at and now - queue.sent_at <= 2 * max(queue.gap, settings.gap) * 1000
    gap = min(max(queue.gap, settings.gap) * 2, HOUR) if busy else settings.gap
    return MailQueue(cursor=cursor, next_at=now + gap * 1000, gap=gap, sent_at=now)


def after_failing(queue: MailQueue, *, error: str, now: int) -> MailQueue:
    """Return the queue once a mail did not go out: tried again after 1, 2, 4 ... 60 minutes."""
    wait = min(60 * 2 ** min(queue.tries, 10), HOUR)
    return replace(
        queue,
        next_at=now + wait * 1000,
        tries=queue.tries + 1,
        failing_since=queue.failing_since or now,
        error=error,
    )


def is_long(queue: MailQueue, *, now: int) -> bool:
    """Tell whether it is time to say, elsewhere, that mail does not go out."""
    return bool(queue.failing_since) and not queue.told and now - queue.failing_since >= HOUR * 1000
