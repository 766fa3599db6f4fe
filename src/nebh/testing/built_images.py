"""Images built from declarations in tests, and their programs run as a container would: read-only, alone, no network."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from nebh.cli.images import is_unwanted, read_declaration
from nebh.host.build_sandbox import Bounds, BuildSandbox, SandboxEnd, sandbox_folder
from nebh.images.cache import ImageCache
from nebh.images.declared.builder import Builder, Built
from nebh.images.declared.commands import write_tree
from nebh.images.declared.lock import make_lock
from nebh.model.build import ImageDeclaration, ImageLock
from nebh.spec.image import parse_image

HTTP = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"
# The protocol's first message (version 3.0, user and database postgres), then a query: a row comes back.
_NAMES = b"user\0postgres\0database\0postgres\0\0"
_QUERY = b"SELECT 6 * 7 AS answer\0"
STARTUP = (
    (8 + len(_NAMES)).to_bytes(4, "big")
    + (3 << 16).to_bytes(4, "big")
    + _NAMES
    + b"Q"
    + (4 + len(_QUERY)).to_bytes(4, "big")
    + _QUERY
)
# Of examples/images: the port, what is sent, what must be in the answer.
ASKED = {
    "static": (8080, HTTP, b"served by one program"),
    "nginx": (8080, HTTP, b"served by nginx"),
    "redis": (6379, b"SET key value\r\nGET key\r\n", b"+OK\r\n$5\r\nvalue"),
    "haproxy": (8080, HTTP, b"served by haproxy"),
    "python-web": (8080, HTTP, b"hello, reader 1"),
    "postgresql": (5432, STARTUP, b"\x00\x00\x00\x0242C"),
    "node": (8080, HTTP, b"served by node"),
    "java": (8080, HTTP, b"served by java 17"),
}
BOUNDS = Bounds(memory=1 << 30, disk=256 << 20, cpu=2000, seconds=120.0)


def builder_of(cache: Path) -> Builder:
    """Return a builder with a cache of its own."""
    cache.mkdir(parents=True, exist_ok=True)
    return Builder(ImageCache(cache), progress=lambda _: None, unwanted=is_unwanted)


def lock_of(declared: ImageDeclaration, builder: Builder) -> ImageLock:
    """Pin a declaration's sources."""
    return make_lock(declared, layers=builder.layers, downloads=builder.downloads, progress=lambda _: None)


def build_text(text: str, *, base: Path, cache: Path) -> Built:
    """Lock and build the declaration `text`."""
    declared = parse_image(text, file="image.yaml", base=str(base))
    builder = builder_of(cache)
    return builder.build(declared, lock_of(declared, builder))


def build_file(path: Path, *, cache: Path) -> tuple[Built, ImageDeclaration]:
    """Lock and build a declaration file; its lock is not written."""
    declared = read_declaration(path)
    builder = builder_of(cache)
    return builder.build(declared, lock_of(declared, builder)), declared


def run_once(
    built: Built,
    cache: Path,
    argv: tuple[str, ...],
    *,
    read_only: bool = True,
    bounds: Bounds = BOUNDS,
    env: dict[str, str] | None = None,
) -> SandboxEnd:
    """Run a program of an image to its end."""
    with sandbox_folder() as folder:
        write_tree(built.report.manifest, ImageCache(cache).objects, folder)
        sandbox = BuildSandbox(root=folder, bounds=bounds, env=env or {}, read_only=read_only, user=10001)
        return sandbox.run(argv)


@contextlib.contextmanager
def running(built: Built, cache: Path, argv: tuple[str, ...], *, env: dict[str, str] | None = None) -> Iterator[int]:
    """Start a program of the image; hand out the pid of a process that keeps its sandbox. Its output goes to ours."""
    with sandbox_folder() as folder:
        write_tree(built.report.manifest, ImageCache(cache).objects, folder)
        sandbox = BuildSandbox(root=folder, bounds=BOUNDS, env=env or {}, read_only=True, user=10001)
        child = os.fork()
        if child == 0:
            try:
                signal.signal(signal.SIGTERM, _leave)
                end = sandbox.run(argv, heard=_repeat)
                os.write(2, f"ended: {end}\n".encode())
            finally:
                os._exit(0)
        try:
            yield child
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


def _repeat(line: str) -> None:
    os.write(2, f"{line}\n".encode())


def _leave(*_: object) -> None:
    raise SystemExit


def inside(pid: int) -> int:
    """Return the pid of the innermost process that `running` started, 0 while there is none."""
    found, last = pid, 0
    while found:
        last = found
        try:
            children = Path(f"/proc/{found}/task/{found}/children").read_text(encoding="ascii").split()
        except OSError:
            return 0
        found = int(children[0]) if children else 0
    return last if last != pid else 0
