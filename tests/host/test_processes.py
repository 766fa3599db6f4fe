"""A pid with its start time names one process for ever; a zombie is not alive."""

from __future__ import annotations

import os
import signal
import subprocess

from nebh.host import processes
from nebh.host.processes import ProcessId


def test_a_process_and_its_zombie():
    child = subprocess.Popen(["/bin/sleep", "30"])
    found = processes.identify(child.pid)
    assert found is not None
    assert processes.is_alive(found)
    assert not processes.is_alive(ProcessId(pid=found.pid, started=found.started + 1))
    assert processes.open_pidfd(ProcessId(pid=found.pid, started=found.started + 1)) == -1
    assert not processes.wait_end(found, seconds=0.01)
    assert processes.send_signal(found, signal.SIGKILL)
    assert processes.wait_end(found, seconds=5)
    assert processes.identify(child.pid) is None  # a zombie until it is collected
    assert os.path.exists(f"/proc/{child.pid}")
    child.wait()
    assert not processes.send_signal(found, signal.SIGTERM)
    assert processes.identify(0) is None
