"""A place with real HAProxy in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nebh.drivers.ingress.haproxy import PROGRAM, HaproxyIngress
from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.host.worker import Worker

BACKEND = Path(__file__).with_name("backend_server.py")
USER = 64990


@dataclass
class Place:
    """folder: for files and sockets. netns: where the proxy and the backends live."""

    folder: Path
    netns: str
    networker: Worker
    processes: list[subprocess.Popen] = field(default_factory=list)

    def ingress(self) -> HaproxyIngress:
        """A driver, as a new executor would make it."""
        return HaproxyIngress(
            state=self.folder / "state",
            run=self.folder / "run",
            spawn=self.networker.spawn,
            uid=USER,
            gid=USER,
            seen_from=self.networker.pid,
        )

    def start(self, *argv: str, **options) -> subprocess.Popen:
        """Start a program in the namespace."""
        argv = ("ip", "netns", "exec", self.netns, *argv)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **options)
        self.processes.append(process)
        return process

    def backend(self, address: str, version: str, port: int = 8080) -> subprocess.Popen:
        """Start a backend and wait until it listens."""
        process = self.start(sys.executable, str(BACKEND), address, str(port), version)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def curl(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run curl in the namespace."""
        argv = ("ip", "netns", "exec", self.netns, "curl", "-s", "-m", "5", *arguments)
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)

    def ask(self, host: str, path: str = "/", *more: str) -> dict:
        """The backend's JSON answer; {"status": N} when it is not 200."""
        done = self.curl("-w", "\n%{http_code}", "-H", f"Host: {host}", *more, f"http://127.0.0.1:80{path}")
        body, _, status = done.stdout.rpartition("\n")
        return json.loads(body) if status == "200" else {"status": int(status), "body": body}

    def load(self, *arguments: str) -> subprocess.Popen:
        """Start the load generator against port 80."""
        argv = (sys.executable, "-m", "nebh.testing.load", "--target", "127.0.0.1:80", *arguments)
        return self.start(*argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.fixture
def place(short_folder: Path, private_netns: str) -> Iterator[Place]:
    if not Path(PROGRAM).exists():
        pytest.skip("haproxy is not installed")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    short_folder.chmod(0o755)

    def enter() -> None:
        descriptor = os.open(f"/run/netns/{private_netns}", os.O_RDONLY)
        setns(descriptor, CLONE_NEWNET)
        os.close(descriptor)

    networker = Worker.fork("networker", {}, setup=enter)
    place = Place(folder=short_folder, netns=private_netns, networker=networker)
    try:
        yield place
    finally:
        place.ingress().stop()
        for process in place.processes:
            process.terminate()
        for process in place.processes:
            process.communicate(timeout=10)
        networker.close()
        time.sleep(0.05)
