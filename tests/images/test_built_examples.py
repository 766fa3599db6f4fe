"""Every declared image of examples/images is built from the real archives, linted, and its server asked."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nebh.drivers.containers.runtime_sizes import render_sizes
from nebh.host.build_sandbox import Bounds
from nebh.images.declared.builder import Built
from nebh.model.build import ImageDeclaration
from nebh.model.service import Limits
from nebh.planning.lint import lint_manifest
from nebh.testing.built_images import ASKED, build_file, inside, run_once, running

MIB = 1 << 20
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "images"
CLIENT = """
import socket, sys, time
port, data = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
    one.sendall(data)
    one.settimeout(3)
    got = b""
    try:
        while more := one.recv(65536):
            got += more
    except TimeoutError:
        pass
sys.stdout.buffer.write(got)
"""


def ask(pid: int, port: int, data: bytes) -> bytes:
    """Ask a server inside: from its network namespace, since nothing leads there from outside."""
    argv = ["nsenter", "-t", str(pid), "-n", "--", "/usr/bin/python3", "-c", CLIENT, str(port), data.hex()]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else b""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(ASKED))
def test_an_example_builds_without_shell_or_setuid_and_its_server_answers(name, cache, tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    built, declared = build_file(EXAMPLES / name / "image.yaml", cache=cache)
    assert built.reduced.closure is not None
    assert not built.reduced.closure.missing
    assert lint_manifest(built.report.manifest) == ()
    assert built.reduced.idle == ()
    assert built.report.ref.bytes < built.whole[1] or name == "static"
    _, _, wanted = ASKED[name]
    assert wanted in answer_of(name, built, declared, cache)


def answer_of(name: str, built: Built, declared: ImageDeclaration, cache: Path, **env: str) -> bytes:
    """Start the server of an example and return what it answers once it does."""
    port, data, wanted = ASKED[name]
    got = b""
    with running(built, cache, declared.entrypoint, env=env) as pid:
        for _ in range(60):
            server = inside(pid)
            got = ask(server, port, data) if server else b""
            if wanted in got:
                break
            time.sleep(0.5)
    return got


def numbers_of(got: bytes) -> dict[bytes, int]:
    lines = (line.split() for line in got.splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(600)
def test_node_and_java_size_themselves_by_the_limits_and_not_by_the_computer(cache):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    small, large = Limits(memory=128 * MIB, cpu=500), Limits(memory=512 * MIB, cpu=2500)
    node, java = (build_file(EXAMPLES / name / "image.yaml", cache=cache) for name in ("node", "java"))
    heaps = [numbers_of(answer_of("node", *node, cache, **render_sizes(one)))[b"heap"] for one in (small, large)]
    assert heaps == [96 * MIB, 384 * MIB]
    assert numbers_of(answer_of("node", *node, cache))[b"heap"] not in heaps
    found = [numbers_of(answer_of("java", *java, cache, **render_sizes(one))) for one in (small, large)]
    assert [one[b"cores"] for one in found] == [1, 3]
    assert 60 * MIB <= found[0][b"heap"] <= 64 * MIB
    assert 248 * MIB <= found[1][b"heap"] <= 256 * MIB
    bare = numbers_of(answer_of("java", *java, cache))
    assert bare[b"heap"] not in [one[b"heap"] for one in found]
    assert bare[b"roots"] > 100, "the keystore that the slice made"


GROW = "const all = []; for (;;) all.push(new Array(1000).fill(0).map((_, index) => ({ index: Math.random() })));"


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_node_that_grows_ends_by_its_own_heap_and_without_the_size_by_the_kernel(cache):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    built, _ = build_file(EXAMPLES / "node" / "image.yaml", cache=cache)
    argv = ("/usr/bin/node", "-e", GROW)
    bounds = Bounds(memory=128 * MIB, disk=512 * MIB, cpu=1000, seconds=60.0)
    sized = run_once(built, cache, argv, bounds=bounds, env=render_sizes(Limits(memory=128 * MIB, cpu=1000)))
    assert (sized.status, sized.reason) == (128 + signal.SIGABRT, "")
    assert "JavaScript heap out of memory" in sized.tail
    bare = run_once(built, cache, argv, bounds=bounds)
    assert "more memory" in bare.reason
