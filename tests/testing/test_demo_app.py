"""The demo's images are minimal, run, and end gently. Built once from Debian packages; skipped where apt reaches none."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nebh.host.run import CommandFailed
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.model.service import CheckKind, ImageSource, SourceKind
from nebh.planning.lint import lint_manifest
from nebh.spec.parse import parse_spec
from nebh.testing.demo_app import write_demo
from nebh.testing.demo_app.elf import is_elf, needed_libraries

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "examples" / "demo"

pytestmark = [pytest.mark.long, pytest.mark.root]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    try:
        return write_demo(tmp_path_factory.mktemp("demo"), specs=SPECS, cache=ROOT / "build" / "demo" / "cache")
    except CommandFailed as error:
        pytest.skip(f"apt cannot fetch Debian packages here: {error.stderr.strip()[-200:]}")


@pytest.fixture
def start(private_netns: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program in a root file system, as an ordinary user with its own mounts, pids and name."""
    started: list[subprocess.Popen[str]] = []

    def begin(root: Path, *argv: str, **env: str) -> subprocess.Popen[str]:
        inside = f"mount --bind /dev {root}/dev && exec chroot --userspec=10001:10001 {root} " + " ".join(argv)
        command = ["ip", "netns", "exec", private_netns, "unshare", "--mount", "sh", "-c", inside]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **env}
        process = subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def _ask(netns: str, path: str, *more: str) -> tuple[int, dict[str, object]]:
    argv = ["ip", "netns", "exec", netns, "curl", "-s", "-m", "5", "-w", "\n%{http_code}", *more]
    done = subprocess.run(
        [*argv, f"http://127.0.0.1:8080{path}"], capture_output=True, text=True, timeout=20, check=False
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body or "{}")


def _until(reached: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_specs_parse_and_watch_health(demo: dict[str, Path]) -> None:
    web = parse_spec(demo["v3"].read_text(), file="web.yaml", base=str(demo["v3"].parent))
    db = parse_spec(demo["db"].read_text(), file="db.yaml", base=str(demo["db"].parent))
    assert Path(web.image.location).is_dir()
    assert Path(db.image.location).is_dir()
    assert [check.path for check in web.update.checks if check.kind is CheckKind.HTTP] == ["/health"]


@pytest.mark.parametrize("release", ["v1", "db"])
def test_images_are_minimal(demo: dict[str, Path], release: str, tmp_path: Path) -> None:
    folder = demo[release].parent / ("db" if release == "db" else "web")
    report = import_image(ImageSource(kind=SourceKind.DIRECTORY, location=str(folder)), cache=ImageCache(tmp_path))
    assert report.findings == ()
    assert lint_manifest(report.manifest) == ()
    assert report.ref.bytes < 60_000_000
    assert {path.name for path in (folder / "usr/bin").iterdir()} <= {"python3.11", "redis-server", "redis-check-rdb"}


@pytest.mark.parametrize("release", ["v1", "db"])
def test_every_library_that_is_needed_is_there(demo: dict[str, Path], release: str) -> None:
    folder = demo[release].parent / ("db" if release == "db" else "web")
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    wanted = {name for path in files if is_elf(data := path.read_bytes()) for name in needed_libraries(data)}
    assert wanted <= names


def test_it_counts_echoes_turns_ill_and_ends_gently(
    demo: dict[str, Path], start: Callable[..., subprocess.Popen[str]], private_netns: str
) -> None:
    web, db = demo["v3"].parent / "web", demo["db"].parent / "db"
    app = start(
        web, "/usr/bin/python3.11 -I /app/app.py", REDIS="127.0.0.1:6379", BEHAVIOUR="health-fails-after-requests=3"
    )
    _until(lambda: _ask(private_netns, "/ready")[0] == 503)
    redis = start(db, "/usr/bin/redis-server /etc/redis.conf")
    _until(lambda: _ask(private_netns, "/ready")[0] == 200)
    status, value = _ask(private_netns, "/")
    assert (status, value["version"], value["counter"]) == (200, "v3", 1)
    assert value["instance"] == os.uname().nodename
    status, value = _ask(private_netns, "/echo", "-d", "hello")
    assert (status, value["counter"], value["bytes"]) == (200, 2, 5)
    assert str(value["digest"]).startswith("2cf24dba")
    redis.kill()
    redis.wait()
    start(db, "/usr/bin/redis-server /etc/redis.conf")  # it starts while the application waits for it
    assert _ask(private_netns, "/")[1]["counter"] == 1
    assert _ask(private_netns, "/health")[0] == 200
    assert _ask(private_netns, "/")[0] == 200
    assert _ask(private_netns, "/health")[0] == 503
    assert _ask(private_netns, "/")[0] == 200
    app.terminate()
    assert app.wait(10) == 0
    assert app.stdout is not None
    assert app.stdout.read().endswith("ended gently\n")
