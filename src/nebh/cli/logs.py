"""What containers wrote, relayed by the controller from the node that holds it."""

from __future__ import annotations

import argparse
import json
import sys

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.model.api import LogLine, LogPage
from nebh.wire import codec

_WAIT = 20.0
_PAGE = 500


def logs(options: argparse.Namespace, out: Output) -> int:
    """Show log lines of a service; with --follow, go on until Ctrl-C."""
    client = Session(options, out).client
    several = not options.instance

    def ask(*, cursor: str = "", follow: float = 0.0) -> LogPage:
        return client.logs(
            options.service,
            node=options.node,
            instance=options.instance,
            cursor=cursor,
            limit=_PAGE,
            tail=0 if cursor else options.tail,
            follow=follow,
        )

    try:
        page = ask()
        while True:
            if page.lost:
                out.note("  (older lines are gone: logs keep a bounded size)")
            for line in page.lines:
                _show(line, options, out, several=several)
            if not options.follow and not page.lines:
                return 0
            page = ask(cursor=page.cursor, follow=_WAIT if options.follow and not page.lines else 0.0)
    except KeyboardInterrupt:
        return 0


def _show(line: LogLine, options: argparse.Namespace, out: Output, *, several: bool) -> None:
    if out.json_wanted:
        sys.stdout.write(json.dumps(codec.to_plain(line)) + "\n")
    elif options.raw:
        sys.stdout.write(line.text + "\n")
    else:
        who = f"{harmless(line.instance)} " if several else ""
        text = f"{harmless(line.time[:23])} {who}{harmless(line.text)}"
        sys.stdout.write((out.paint(text, "yellow") if line.stream == "stderr" else text) + "\n")
    sys.stdout.flush()
