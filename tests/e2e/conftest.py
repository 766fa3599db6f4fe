"""A whole cloud per test module, images to deploy on it, and ways into its network."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.model.errors import NotFound
from nebh.testing.cloud import Cloud
from nebh.testing.example_images import build_image

NEEDED = ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "nsenter", "curl")


def _require_machine() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: starts a whole cloud")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def disk_folder() -> Iterator[Path]:
    """A short private folder on a disk."""
    folder = Path("/var/tmp") / f"nt-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cloud(disk_folder: Path) -> Iterator[Cloud]:
    """A cloud that runs; what its programs wrote is shown when a test of the module fails."""
    _require_machine()
    with Cloud(disk_folder / "c") as made:
        made.up()
        yield made


@pytest.fixture(autouse=True)
def cloud_logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a failed test: what the cloud's programs said."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed and "cloud" in request.fixturenames:
        found = request.getfixturevalue("cloud")
        if isinstance(found, Cloud):
            sys.stderr.write(found.say_logs())


class Services:
    """Writes specs and builds images below one folder, deploys them."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder

    def image(self, name: str, *, version: str = "v1", shell: bool = False) -> Path:
        """Build the image NAME in a version; return its folder."""
        try:
            return build_image(self.folder / "images" / name, name, f"{name}-check", version=version, shell=shell)
        except NotFound as error:
            pytest.skip(str(error))

    def web(self, name: str, *, version: str = "v1", port: int = 8080, more: str = "", update: str = "") -> Path:
        """Build and describe a web service; `more`: further YAML; `update`: further fields of update."""
        self.image(name, version=version)
        spec = self.folder / f"{name}.yaml"
        spec.write_text(
            f"name: {name}\nimage: {{dir: ./images/{name}}}\nargv: [/usr/bin/{name}, --port, '{port}']\n"
            f"ports: {{http: {port}}}\nroutes: [{{host: {name}.example, port: http}}]\n"
            f"update: {{bake: 1s, drain: 3s{update}}}\nstop: {{grace: 5s}}\n"
            + ("" if "limits:" in more else "limits: {memory: 64M}\n")
            + ("" if "health:" in more else "health: {readiness: {http: {path: /ready}, interval: 200ms}}\n")
            + more
        )
        return spec

    def deploy(self, name: str, **words: str | int) -> None:
        """Build, describe and deploy a web service."""
        self.cloud.nebh("deploy", "--yes-widen", str(self.web(name, **words)), timeout=400.0)


@pytest.fixture(scope="module")
def services(cloud: Cloud, disk_folder: Path) -> Services:
    return Services(cloud, disk_folder)


@pytest.fixture(scope="module")
def dial(cloud: Cloud) -> Callable[..., socket.socket]:
    """Return a function that connects to a port from inside the cloud's network."""

    def connect(port: int, *, address: str = "127.0.0.1", timeout: float = 10.0) -> socket.socket:
        found: list[socket.socket | OSError] = []

        def work() -> None:
            with open(f"/run/netns/{cloud.name}") as namespace:
                setns(namespace.fileno(), CLONE_NEWNET)
            try:
                found.append(socket.create_connection((address, port), timeout=timeout))
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]

    return connect


@pytest.fixture(scope="module")
def ask(dial: Callable[..., socket.socket]) -> Callable[..., str]:
    """Return a function that sends one line to a TCP port of the node and returns the line that comes back."""

    def send(port: int, line: str = "who", **more: str) -> str:
        with dial(port, **more) as connection, connection.makefile("rw") as file:
            file.write(f"{line}\n")
            file.flush()
            return file.readline().strip()

    return send


def eventually(look: Callable[[], object], *, patience: float = 60.0, what: str = "") -> object:
    """Return the first true thing that `look` returns; the machine may be slow."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"it did not happen within {patience:g} s: {what}; last: {found!r}"
        time.sleep(0.3)


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Callable[..., object]:
    return eventually


@pytest.fixture
def load(cloud: Cloud) -> Iterator[Callable[..., Callable[[], dict[str, object]]]]:
    """Return a function that starts light load on a service and returns one that ends it and gives its summary."""
    import json

    running: list[subprocess.Popen[bytes]] = []

    def start(host: str, *, rate: int = 20, more: tuple[str, ...] = ()) -> Callable[[], dict[str, object]]:
        words = ("-m", "nebh.testing.load", "--target", f"127.0.0.1:{cloud.http_port}", "--host-header", host)
        mix = ("--rate", str(rate), "--keepalive", "3", "--fresh", "1", "--seconds", "600")
        process = subprocess.Popen(
            cloud.inside(sys.executable, *words, *mix, *more), env={**os.environ, **cloud.env}, stdout=subprocess.PIPE
        )
        running.append(process)

        def stop() -> dict[str, object]:
            process.terminate()
            out, _ = process.communicate(timeout=60)
            return dict(json.loads(out))

        return stop

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def shorten(text: str, *, most: int = 3) -> str:
    """Return a spec whose waits for watching and draining are at most `most` seconds: tests have less patience."""
    return re.sub(r"\b(bake|drain): (\d+)(s|m)", lambda m: f"{m[1]}: {min(most, int(m[2]))}s", text)


@pytest.fixture(name="shorten", scope="session")
def shorten_fixture() -> Callable[..., str]:
    return shorten
