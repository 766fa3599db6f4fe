"""What happened (events), and who asked for what (history)."""

from __future__ import annotations

import argparse
import json
import sys

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.cli.show import clock
from nebh.model.event import Event, Severity
from nebh.wire import codec

_COLOURS = {Severity.INFO: "dim", Severity.WARNING: "yellow", Severity.ALARM: "red"}
_WAIT = 25.0


def events(options: argparse.Namespace, out: Output) -> int:
    """Show the newest events; with --follow, go on until Ctrl-C."""
    client = Session(options, out).client
    page = client.events(service=options.service)
    if out.json_wanted and not options.follow:
        out.document({"cursor": page.cursor, "events": [codec.to_plain(one) for one in page.events]})
        return 0
    try:
        while True:
            for event in page.events:
                _show(event, out)
            if not options.follow:
                return 0
            page = client.events(after=page.cursor, service=options.service, wait=_WAIT)
    except KeyboardInterrupt:
        return 0


def _show(event: Event, out: Output) -> None:
    if out.json_wanted:
        sys.stdout.write(json.dumps(codec.to_plain(event)) + "\n")
        sys.stdout.flush()
        return
    text = f"{clock(event.at)} {event.source}: {event.message}"
    out.say(out.paint(harmless(text), _COLOURS[event.severity]))
    if event.hint and event.severity is not Severity.INFO:
        out.say(f"         {harmless(event.hint)}")


def history(options: argparse.Namespace, out: Output) -> int:
    """Show who asked the controller for what, newest first."""
    entries = Session(options, out).client.history(service=options.service, limit=options.limit)
    if out.json_wanted:
        out.document({"entries": [codec.to_plain(one) for one in entries]})
        return 0
    rows = [(clock(one.at), one.by or "controller", one.what, one.service or "-", one.detail) for one in entries]
    out.table(("WHEN", "KEY", "WHAT", "SERVICE", "DETAIL"), rows)
    return 0
