"""The README's commands, and those of the first-service page, run as written; `make demo` and `make test` on a fresh
system are the business of `tests/fresh/run.sh`.

The machine is stood in for by a Cloud's network and folders. Two programs on PATH stand between the page and them:
`nebh` gives `up` those folders and leaves it in the background, `sudo` just runs its words.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nebh.testing.cloud import Cloud
from nebh.testing.container_rig import busybox
from nebh.testing.pages import Block, find_missing, read_blocks

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]
HOUSE = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/first-service.md")
PATIENCE = 300
NEEDED = ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "nsenter", "curl", "busybox")

_NEBH = """#!/bin/bash
run() {{ {python} -P -m nebh.programs.nebh "$@"; }}
[ "$1" = up ] || {{ run "$@"; exit; }}
shift
run up --foreground --state {state} --run {run} --cgroup-parent {name} --words-file {folder}/words "$@" \\
    < /dev/null >> {folder}/up.log 2>&1 &
for _ in $(seq 600); do
    ! grep -q 'is up' {folder}/up.log || {{ cat {folder}/up.log; exit 0; }}
    kill -0 $! 2>/dev/null || break
    sleep 0.2
done
cat {folder}/up.log
exit 1
"""


class Machine:
    """A stand-in for a reader's machine: a network of its own with port 80 free, a home, an empty work folder."""

    def __init__(self, folder: Path) -> None:
        self.cloud = Cloud(folder, http_port=80)
        self.work, self.bin = folder / "work", folder / "bin"
        for path in (self.work, self.bin, folder / "home"):
            path.mkdir()
        layout = self.cloud.layout
        self._program(
            "nebh",
            _NEBH.format(
                python=sys.executable, state=layout.state, run=layout.run, name=self.cloud.name, folder=folder
            ),
        )
        self._program("sudo", '#!/bin/sh\nexec "$@"\n')

    def _program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, block: Block) -> tuple[int, str]:
        """Run a block in bash, which ends at the first command that fails; return (status, what it printed)."""
        env = {**os.environ, **self.cloud.env, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        argv = self.cloud.inside("bash", "-euo", "pipefail", "-c", block.commands)
        with (self.cloud.folder / "said").open("w+b") as said:
            done = subprocess.run(
                argv, cwd=self.work, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=PATIENCE,
                check=False,
            )  # fmt: skip
            said.seek(0)
            return done.returncode, said.read().decode(errors="replace")


@pytest.fixture
def machine() -> Iterator[Machine]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    made = Machine(Path("/var/tmp") / f"nt-{secrets.token_hex(3)}")
    with made.cloud:
        yield made


def tar_of(*members: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content, mode in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def put(root: Path, data: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def write_oci_layout(root: Path, *, tag: str) -> None:
    """What `skopeo copy docker://… oci:app:1.2` leaves: an image with one program `/app` that serves a page on 8080."""
    oci = "application/vnd.oci.image"
    # the program is a script for busybox's web server: that makes it small without a compiler
    layer = tar_of(
        ("bin/httpd", Path(busybox()).read_bytes(), 0o755),
        ("app", b"#!/bin/httpd -fp8080\n", 0o755),
        ("index.html", b"the app, 1.2\n", 0o644),
    )
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/app"], "Env": ["PORT=8080"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": put(root, json.dumps(config).encode(), f"{oci}.config.v1+json"),
        "layers": [put(root, gzip.compress(layer), f"{oci}.layer.v1.tar+gzip")],
    }
    entry = put(root, json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_work_as_written(page: str, machine: Machine) -> None:
    write_oci_layout(machine.work / "app", tag="1.2")
    ran = 0
    for block in read_blocks((HOUSE / page).read_text()):
        if block.skip:
            print(f"{page}:{block.line}: not run: {block.skip}")
            continue
        status, output = machine.run(block)
        print(f"== {page}:{block.line}\n{block.commands}-- {status}\n{output}")
        assert status == 0, f"{page}:{block.line}: ended with status {status}:\n{output}\n{machine.cloud.say_logs()}"
        assert not find_missing(block.expected, output), f"{page}:{block.line}: the page promises other output"
        ran += 1
    assert ran >= 4
