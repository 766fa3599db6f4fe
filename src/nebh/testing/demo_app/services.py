"""The two demo services: what is in their images."""

from __future__ import annotations

import shutil
from pathlib import Path

from nebh.testing.demo_app.rootfs import build_rootfs

WEB_PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "python3-waitress", "python3-redis")
DB_PACKAGES = ("redis-server",)
VERSIONS = {"v1": "", "v2": "", "v3": "health-fails-after-seconds=6"}

REDIS_CONF = """\
# A counter for the demo: kept in memory only.
bind * -::*
port 6379
protected-mode no
daemonize no
save ""
appendonly no
dir /tmp
maxmemory 16mb
maxmemory-policy noeviction
shutdown-timeout 2
"""


def build_web(target: Path, *, version: str, cache: Path, behaviour: str = "") -> Path:
    """Make `target` the web application's root file system. version: what it answers with. behaviour: see app.py."""
    source = Path(__file__).with_name("app.py").read_bytes()
    files = {
        "app/app.py": source,
        "app/version": f"{version}\n".encode(),
        "app/behaviour": f"{behaviour}\n".encode(),
    }
    return build_rootfs(target, packages=WEB_PACKAGES, programs=("python3.11",), files=files, cache=cache)


def build_db(target: Path, *, cache: Path, version: str = "1") -> Path:
    """Make `target` Redis's root file system. version: a file that tells one release from the other."""
    files = {
        "etc/redis.conf": REDIS_CONF.encode(),
        "etc/demo-version": f"{version}\n".encode(),
    }
    programs = ("redis-server",)
    return build_rootfs(target, packages=DB_PACKAGES, programs=programs, files=files, cache=cache)


def write_demo(folder: Path, *, specs: Path, cache: Path) -> dict[str, Path]:
    """Build everything into `folder`; return spec files by release: `db`, and `v1`, `v2`, `v3` of `web`. v3 is the one
    whose health check fails a while after it was found ready. specs: the folder with db.yaml and web.yaml."""
    found = {"db": _place(specs / "db.yaml", folder / "db")}
    build_db(folder / "db" / "db", cache=cache)
    for version, behaviour in VERSIONS.items():
        found[version] = _place(specs / "web.yaml", folder / version)
        build_web(folder / version / "web", version=version, behaviour=behaviour, cache=cache)
    return found


def _place(spec: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(spec, folder / spec.name))
