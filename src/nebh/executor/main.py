"""Entry: fork the helpers, leave the host's network, open the journal, bring reality to what it says, serve.

Imports stand where they are used: the helpers are forked before most of the program is loaded."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from pathlib import Path

from nebh.executor import admin
from nebh.executor.forking import fork_helpers
from nebh.host import faults, marks
from nebh.host.core_dumps import forbid_core_dumps
from nebh.host.layout import Layout
from nebh.host.notify import notify
from nebh.host.program_tree import check_tree, own_tree
from nebh.model.errors import NebhError


def main(argv: list[str]) -> int:
    """Run `nebh-executor`; return the exit status."""
    options = admin.parse(argv)
    layout = Layout(state=Path(options.state), run=Path(options.run))
    try:
        if options.command == "serve":
            return serve(layout)
        from nebh.client.frame_channel import connect_frames

        return admin.run(options, lambda: connect_frames(layout.executor_socket))
    except NebhError as error:
        sys.stderr.write(f"nebh-executor: {error}\n")
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def serve(layout: Layout) -> int:
    """Serve until SIGTERM or SIGINT. Containers run on afterwards."""
    faults.arm(dict(os.environ))
    marks.arm(dict(os.environ))
    check_tree(own_tree())
    forbid_core_dumps()
    ended = threading.Event()
    helpers = fork_helpers(layout)

    from nebh.executor.assemble import assemble

    executor = assemble(layout, helpers)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    executor.start()
    gc.collect()
    gc.freeze()
    notify("READY=1")
    while not ended.wait(3600):
        pass
    executor.stop()
    return 0
