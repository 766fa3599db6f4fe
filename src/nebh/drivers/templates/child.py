"""Render files in a fresh, caged process: hostile templates cost a second and 64 MiB, and nothing else.

Protocol: the child's file descriptor 0 holds the request, one line of canonical JSON and then the bundle's bytes. It
answers on file descriptor 1 with lines: `=` and a canonical NodeRendering for each node, `.` at the end, or `!` and an
error (wire.failures). The child is programs/renderer.py.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nebh.host.run import Command, Started, start
from nebh.model.config_layer import NodeFacts
from nebh.model.errors import BadInput, Broken
from nebh.model.rendering import NodeRendering
from nebh.wire import codec, failures

MAX_ANSWER = 2 << 20
"""Bytes of one node's answer without origins: 1 MiB of text, as JSON."""
MAX_EXPLAINED = 64 << 20
_STARTING = 20.0
_PER_NODE = 10.0


@dataclass(frozen=True, kw_only=True)
class RenderHead:
    """The first line of a request. files: (path, template's name); origins: say where each line comes from."""

    cluster_id: str
    service: str
    files: tuple[tuple[str, str], ...]
    nodes: tuple[NodeFacts, ...]
    origins: bool = False


def render_in_child(head: RenderHead, bundle: bytes) -> tuple[NodeRendering, ...]:
    """Return the files of each node, or what is wrong with them. bundle: its canonical bytes, hashed by the caller.

    Raises BadInput when the bundle cannot be used, or rendering took over 1 s of processor or 64 MiB; Broken when the
    child does not keep to the protocol.
    """
    return tuple(_Child(head, bundle).run())


class _Child:
    """One process, for one request."""

    def __init__(self, head: RenderHead, bundle: bytes) -> None:
        self._head = head
        self._bundle = bundle
        self._what = f"the files of {head.service}"

    def run(self) -> Iterator[NodeRendering]:
        limit = MAX_EXPLAINED if self._head.origins else MAX_ANSWER
        end = time.monotonic() + _STARTING + _PER_NODE * len(self._head.nodes)
        answers, writing = os.pipe2(os.O_CLOEXEC)
        process = None
        done = 0
        try:
            process = self._start(writing)
            os.close(writing)
            writing = -1
            for line in _lines(answers, limit=limit, end=end):
                if line == b".":
                    if done != len(self._head.nodes):
                        break
                    return
                yield self._read(line, limit=limit)
                done += 1
            raise self._ended(process, done)
        finally:
            os.close(answers)
            if writing >= 0:
                os.close(writing)
            if process is not None:
                process.kill()
                process.wait()

    def _start(self, writing: int) -> Started:
        request = os.memfd_create("render", os.MFD_CLOEXEC)
        try:
            with open(request, "wb", closefd=False) as file:
                file.write(codec.encode(self._head) + b"\n" + self._bundle)
            os.lseek(request, 0, os.SEEK_SET)
            argv = (sys.executable, "-s", "-m", "nebh.programs.renderer")
            env = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONDONTWRITEBYTECODE": "1"}
            return start(Command(argv=argv, env=env), stdin=request, stdout=writing)
        finally:
            os.close(request)

    def _read(self, line: bytes, *, limit: int) -> NodeRendering:
        if line.startswith(b"!"):
            raise failures.from_plain(codec.decode_loose(line[1:], dict, what="a renderer's error"))
        if not line.startswith(b"="):
            raise Broken(f"cannot render {self._what}: the renderer breaks the protocol")
        return codec.decode(line[1:], NodeRendering, what="a renderer's answer", limit=limit)

    def _ended(self, process: Started, done: int) -> BadInput | Broken:
        """Say why the child ended early."""
        try:
            status = process.wait(timeout=5.0)
        except Exception:
            process.kill()
            status = process.wait()
        where = self._head.nodes[done].name if done < len(self._head.nodes) else "the last node"
        if status in {-signal.SIGPROF, -signal.SIGXCPU, -signal.SIGKILL}:
            return BadInput(
                f"cannot render {self._what} for {where}: it took more than 1 s of processor time",
                hint="does a template loop for ever?",
            )
        return Broken(f"cannot render {self._what} for {where}: the renderer ended with status {status}")


def _lines(descriptor: int, *, limit: int, end: float) -> Iterator[bytes]:
    """Yield lines of at most `limit` bytes until the end of the stream, or until `end` (CLOCK_MONOTONIC)."""
    held = bytearray()
    while True:
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            return
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            return
        held += chunk
        while (at := held.find(b"\n")) >= 0:
            yield bytes(held[:at])
            del held[: at + 1]
        if len(held) > limit:
            raise BadInput(
                f"cannot render: the files have more than {limit} bytes", hint="files of a node have 1 MiB together"
            )
