"""Mail: how it stands, and a test."""

from __future__ import annotations

import argparse

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.cli.show import clock
from nebh.model.errors import Failed
from nebh.wire import codec


def status(options: argparse.Namespace, out: Output) -> int:
    """Show how mail stands."""
    found = Session(options, out).client.mail()
    if out.json_wanted:
        out.document(codec.to_plain(found))
        return 0
    if not found.server:
        out.say("no mail goes out: the controller has no settings for it (docs/operations.md, Mail)")
        return 0
    out.say(
        f"mail of events from {found.least.value} on goes to {harmless(', '.join(found.to))} by {harmless(found.server)}"
    )
    out.say(f"last sent: {clock(found.sent_at) if found.sent_at else 'never'}; waiting: {found.waiting}")
    if found.failing_since:
        out.say(out.paint(f"none has gone out since {clock(found.failing_since)}: {harmless(found.error)}", "red"))
    return 0


def test(options: argparse.Namespace, out: Output) -> int:
    """Have the controller send one mail now."""
    session = Session(options, out)
    out.note("the controller hands one mail to its mail server ...")
    done = session.client.test_mail()
    error = None
    if not done.ok:
        error = Failed(f"the mail was not taken: {harmless(done.said)}", hint=harmless(done.hint))
    if out.json_wanted:
        out.document(codec.to_plain(done))
        return error.exit_status if error else 0
    if error is not None:
        raise error
    out.say(f"{harmless(done.server)}: {harmless(done.said)}; it goes to {harmless(', '.join(done.to))}")
    return 0
