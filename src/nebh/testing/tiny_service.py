"""A service of one file for tests of whole clouds: busybox's HTTP server under a name of its own, and a page."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from nebh.testing.container_rig import busybox

HOST = "web.example"
_MIB = 1 << 20
_SPEC = """name: {name}
image: {{dir: ./{name}}}
argv: [/bin/httpd, -f, -p, "8080", -h, /www]
ports: {{http: 8080}}
routes:
  - {{host: {host}, port: http}}
limits: {{memory: {memory}, pids: 16}}
health:
  startup_timeout: 20s
  readiness:
    http: {{port: http, path: /}}
    interval: 200ms
    timeout: 10s
stop: {{signal: KILL, grace: 1s}}
update: {{bake: {bake}, drain: 1s}}
{more}"""


def write_service(
    folder: Path,
    *,
    name: str = "web",
    page: str = "tiny 1",
    host: str = HOST,
    memory: str = "32M",
    bake: str = "1s",
    more: str = "",
) -> Path:
    """Write the image and the spec `<name>.yaml` of a service that answers `page`; return the spec. Written again,
    it becomes the next release. more: lines for the end of the spec. Raises NotFound without a static busybox."""
    image = folder / name
    for part in ("bin", "www"):
        (image / part).mkdir(parents=True, exist_ok=True)
    program = image / "bin" / "httpd"
    if not program.exists():
        shutil.copy(busybox(), program)
        program.chmod(0o755)
    (image / "www" / "index.html").write_text(page + "\n")
    spec = folder / f"{name}.yaml"
    spec.write_text(_SPEC.format(name=name, host=host, memory=memory, bake=bake, more=more))
    return spec


def write_random(path: Path, size: int) -> str:
    """Write `size` bytes (whole MiB) that no compression shortens; return their SHA-256."""
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size // _MIB):
            piece = os.urandom(_MIB)
            hasher.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest()
