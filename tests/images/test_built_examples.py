"""Every declared image of examples/images is built from the real archives, linted, and its server asked."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from nebh.planning.lint import lint_manifest
from nebh.testing.built_images import ASKED, build_file, inside, running

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
    assert lint_manifest(built.report.manifest) == ()
    assert built.reduced.idle == ()
    assert built.report.ref.bytes < built.whole[1] or name == "static"
    port, data, wanted = ASKED[name]
    got = b""
    with running(built, cache, declared.entrypoint) as pid:
        for _ in range(60):
            server = inside(pid)
            got = ask(server, port, data) if server else b""
            if wanted in got:
                break
            time.sleep(0.5)
    assert wanted in got
