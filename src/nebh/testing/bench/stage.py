"""What several measurements stand on: settings, a node whose service stamps its requests, a client, pairs of rounds."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebh.host.run import Command, start
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.model.image import ImageRef
from nebh.model.service import ImageSource, SourceKind
from nebh.testing.bench import machine
from nebh.testing.cloud import Cloud
from nebh.testing.example_images import build_image
from nebh.testing.node import APP_PORT, Forks, Node

ARGV = ("/usr/bin/web", "--port", str(APP_PORT))
CALM_PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """quick: few rounds. seconds: how long one measurement may go on beginning new rounds. folder: for scratch files.
    volume_mib: size of volumes, 0 = the usual one."""

    quick: bool
    seconds: float
    folder: Path
    volume_mib: int = 0

    def rounds(self, usual: int, quick: int) -> int:
        """Return how many rounds to make."""
        return quick if self.quick else usual


class Rounds:
    """Numbers of rounds. Stops early when the time is over; before each round it waits for a calm machine, for 20 s in
    all, which do not count."""

    def __init__(self, settings: Settings, *, usual: int, quick: int) -> None:
        self._wanted = settings.rounds(usual, quick)
        self._end = time.monotonic() + settings.seconds
        self._patience = 0.0 if settings.quick else CALM_PATIENCE

    def __iter__(self) -> Iterator[int]:
        for number in range(self._wanted):
            if time.monotonic() > self._end:
                return
            while machine.pressure() > machine.CALM and self._patience > 0:
                time.sleep(1)
                self._patience -= 1
                self._end += 1
            yield number


def in_turns(number: int, first: Callable[[], None], second: Callable[[], None]) -> None:
    """Do both; which comes first changes every round."""
    for step in (first, second) if number % 2 else (second, first):
        step()


def scratch(prefix: str) -> Path:
    """Return a new short name for a folder on a disk."""
    return Path("/var/tmp") / f"nt-{prefix}{secrets.token_hex(3)}"


class StampNode(Node):
    """A node whose service says when it received each request; its executor notes the instants of `host.marks`."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        super().__init__(folder, forks)
        self.marks = folder / "marks"
        self.images: dict[str, ImageRef] = {}

    def fork(self, program: str, env: dict[str, str] | None = None) -> int:
        """As a Node's, with marks."""
        return super().fork(program, {"NEBH_FAULT_TRACE": "", "NEBH_FAULT_TIMES": str(self.marks), **(env or {})})

    def add_image(self, version: str, *, padding: int = 0) -> None:
        """Serve an image that answers with `version`; padding: bytes of a file that is in it besides."""
        tree = build_image(self.folder / f"image-{version}", "web", version=version)
        if padding:
            with (tree / "padding").open("wb") as file:
                for _ in range(padding >> 20):
                    file.write(os.urandom(1 << 20))
        cache = ImageCache(self.folder / "images")
        report = import_image(ImageSource(kind=SourceKind.DIRECTORY, location=str(tree)), cache=cache)
        (self.served / "objects" / report.digest).write_bytes(cache.manifest_bytes(report.digest))
        for digest in {entry.sha256 for entry in report.manifest.entries if entry.size}:
            with os.fdopen(cache.objects.open(digest), "rb") as source:
                (self.served / "objects" / digest).write_bytes(source.read())
        self.images[version] = report.ref
        shutil.rmtree(tree)

    def publish_version(self, version: str, **fields: Any) -> int:
        """Sign a release of an image added before; return its counter."""
        return self.publish_release(images={"main": self.images[version]}, argv=ARGV, **fields)

    def open_state(self) -> str:
        """Return the state of the open transaction, "" without one."""
        found = self.status()["transactions"]
        return str(found[0]["state"]) if found else ""

    def passed(self) -> list[tuple[str, int]]:
        """Return the marks passed so far, with their ns."""
        if not self.marks.exists():
            return []
        return [(name, int(at)) for name, at in (line.split() for line in self.marks.read_text().splitlines())]


@contextlib.contextmanager
def a_node() -> Iterator[StampNode]:
    """Give a running node; nothing of it stays."""
    forks = Forks()
    node = StampNode(scratch("b"), forks)
    try:
        node.begin()
        yield node
    finally:
        node.destroy()
        forks.close()


@contextlib.contextmanager
def a_cloud(**env: str) -> Iterator[Cloud]:
    """Give a running cloud; nothing of it stays."""
    cloud = Cloud(scratch("b"))
    try:
        cloud.up(env=env)
        yield cloud
    finally:
        cloud.destroy()


@contextlib.contextmanager
def asking(cloud: Cloud, *, port: int, host: str, out: Path) -> Iterator[Callable[[bool], None]]:
    """Have a client ask in the cloud's network until the end of the block. Gives what lets it pause (False) and go on
    (True)."""
    words = ("--port", str(port), "--host", host, "--out", str(out))
    argv = cloud.inside(sys.executable, "-P", "-m", "nebh.testing.bench.client", *words)
    process = start(Command(argv=argv, env=cloud.env))
    try:
        yield lambda goes_on: os.kill(process.pid, signal.SIGUSR2 if goes_on else signal.SIGUSR1)
    finally:
        process.terminate()
        process.wait(30)
