"""The peers of a cut-over: two processes behind an unmodified HAProxy that is reloaded to lead to the other one, and
`docker stop` followed by `docker run`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nebh.host.run import Command, Started, start
from nebh.testing import example_app
from nebh.testing.cloud import PATIENCE, Cloud
from nebh.testing.docker import Docker
from nebh.testing.example_images import build_image

PORT = 8090
_CONFIG = """global
  master-worker
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  server one 127.0.0.1:{server}
"""


class ReloadPeer:
    """Started in a cloud's network; `swap` leads to the other process."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud = cloud
        self._folder = folder
        self._config = folder / "peer.cfg"
        self._servers = (9001, 9002)
        self._now = 0
        self._started: list[Started] = []

    def begin(self) -> None:
        """Start both processes and the proxy."""
        text = Path(example_app.__file__).read_text(encoding="utf-8")
        for number, port in enumerate(self._servers):
            program = self._folder / f"peer-{number}.py"
            program.write_text(text.replace("/usr/lib/example/version", str(self._folder / f"peer-version-{number}")))
            (self._folder / f"peer-version-{number}").write_text(f"p{number}")
            self._spawn(sys.executable, "-IS", str(program), "--port", str(port))
        self._write()
        time.sleep(1)
        self._proxy = self._spawn("/usr/sbin/haproxy", "-W", "-db", "-q", "-f", str(self._config))
        time.sleep(1)

    def _spawn(self, *argv: str) -> Started:
        self._started.append(start(Command(argv=self._cloud.inside(*argv))))
        return self._started[-1]

    def _write(self) -> None:
        self._config.write_text(_CONFIG.format(port=PORT, server=self._servers[self._now]))

    def swap(self) -> tuple[int, str]:
        """Lead to the other process; return (ns when the command was given, version that was led to before)."""
        before, self._now = f"p{self._now}", 1 - self._now
        begin = time.monotonic_ns()
        self._write()
        os.kill(self._proxy.pid, signal.SIGUSR2)
        return begin, before

    def end(self) -> None:
        """End everything."""
        for process in reversed(self._started):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait(20)


@contextlib.contextmanager
def a_reload_peer(cloud: Cloud, folder: Path) -> Iterator[ReloadPeer]:
    """Give a running peer."""
    peer = ReloadPeer(cloud, folder)
    try:
        peer.begin()
        yield peer
    finally:
        peer.end()


class DockerPeer:
    """One container of Docker at a time, on the daemon's own loopback; `swap` replaces it by one of the other version."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        self._docker = docker
        self._now = 0
        for number in (0, 1):
            tree = build_image(folder / f"docker-{number}", "web", version=f"d{number}")
            docker.add_image(f"web:{number}", tree, f'CMD ["/usr/bin/web", "--port", "{PORT}"]')
            shutil.rmtree(tree)
        self._run()
        self._wait()

    def _run(self) -> None:
        self._docker.docker("run", "-d", "--network", "host", "--name", f"web-{self._now}", f"web:{self._now}")

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while f"d{self._now}" not in self._docker.ask(PORT):
            if time.monotonic() > end:
                raise TimeoutError(f"version d{self._now} does not answer under Docker")

    def swap(self) -> float:
        """Return the ms from `docker stop` until the other version answers; nothing answers for most of them."""
        begin = time.monotonic()
        self._docker.docker("stop", f"web-{self._now}")
        self._now = 1 - self._now
        self._run()
        self._wait()
        took = (time.monotonic() - begin) * 1000
        self._docker.docker("rm", f"web-{1 - self._now}")
        return took
