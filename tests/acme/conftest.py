"""A node with HAProxy on ports 80 and 443 of a network of its own, and a real ACME server beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nebh.model.policy import NetPolicy
from nebh.model.service import Acme, Route, RouteTls
from nebh.signing.wish import Wish
from nebh.testing.node import APP_PORT, HOST, Forks, Node

HOUSE = Path(__file__).resolve().parents[2]
PINS = HOUSE / "requirements" / "acme.txt"
TOOLS = ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "busybox", "curl")
PORT = 14000


@pytest.fixture(scope="session")
def machine() -> None:
    """Skip, saying what is missing."""
    missing = [
        name for name in TOOLS if shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin") is None
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def acme_python(machine: None) -> str:
    """The Python of an environment with the pinned ACME server, made once; skipped where it cannot be had."""
    mark = hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]
    place = HOUSE / "build" / f"cache-{os.geteuid()}" / f"acme-{mark}"
    if not (place / "ready").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, capture_output=True, timeout=100)
        argv = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        done = subprocess.run([*argv, "-r", str(PINS)], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            pytest.skip(f"no ACME server: pip cannot install it: {done.stderr.strip()[-300:]}")
        (place / "ready").write_text("")
    return str(place / "bin" / "python")


@dataclass
class Authority:
    """The server and what it is told."""

    folder: Path
    process: subprocess.Popen[bytes]
    directory: str = f"https://127.0.0.1:{PORT}/directory"

    @property
    def pem(self) -> str:
        """Path of its certificate."""
        return str(self.folder / "ca.pem")

    def say(self, mode: str = "good", *, life: int = 3600, **more: Any) -> None:
        """Have it sign that way from now on."""
        path = self.folder / "control.json"
        path.with_suffix(".new").write_text(json.dumps({"mode": mode, "life": life, **more}))
        path.with_suffix(".new").rename(path)

    def asked(self) -> list[str]:
        """Names of every certificate that was asked for."""
        path = self.folder / "asked"
        return path.read_text().split() if path.exists() else []


class AcmeNode(Node):
    """A node whose one route has a certificate that a test declares."""

    def route(self, tls: RouteTls, **policy: Any) -> int:
        """Sign a policy with that route and a release; return its counter."""
        wanted = dataclasses.replace(
            self.next_policy(),
            net=NetPolicy(routes=(Route(port=APP_PORT, host=HOST, tls=tls),), ports={"http": APP_PORT}),
            **policy,
        )
        self.sign(Wish(policies=(wanted,)))
        return self.publish_release(policy_min_version=self.policy_version)

    def deploy_acme(self, authority: Authority) -> None:
        """Run a release whose route has a certificate of that authority, declared and running but not yet got."""
        self.deploy_unsettled(authority)
        self.settle()

    def deploy_unsettled(self, authority: Authority) -> None:
        """The same for an executor that will be killed meanwhile."""
        self.assign(self.route(RouteTls(acme=Acme(directory=authority.directory, email="a@b.test", ca=authority.pem))))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return all events of a kind."""
        news = self.ask({"op": "poll", "receipt": 0, "event": 0, "wait_ms": 0})["events"]
        return [one for one in news if one["kind"] == kind]

    def certificate(self) -> dict[str, Any]:
        """Return what the node says of its one certificate."""
        (one,) = self.status()["certificates"]
        return dict(one)

    def https(self, trusted: str) -> str:
        """Return the page over HTTPS for who trusts one PEM file, "" where the handshake fails."""
        argv = ["curl", "-s", "-m", "5", "--resolve", f"{HOST}:443:127.0.0.1", "--cacert", trusted, f"https://{HOST}/"]
        done = subprocess.run(self.inside(*argv), capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def serial(self) -> str:
        """Return the serial number of the certificate that the proxy shows, "" where it shows none."""
        line = f"openssl s_client -connect 127.0.0.1:443 -servername {HOST} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        done = subprocess.run(self.inside("sh", "-c", line), capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip()

    def worker(self) -> str:
        """Return the pids of the proxy's processes."""
        pid = json.loads((self.layout.ingress / "ledger.json").read_bytes())["pid"]
        return Path(f"/proc/{pid}/task/{pid}/children").read_text()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    found = Forks()
    yield found
    found.close()


@pytest.fixture
def node(machine: None, forks: Forks) -> Iterator[AcmeNode]:
    made = AcmeNode(Path(f"/var/tmp/nt-{secrets.token_hex(3)}"), forks, http_port=80)
    text = made.layout.node_config.read_text().replace("8443", "443")
    made.layout.node_config.write_text(text)
    try:
        made.begin()
        yield made
    finally:
        made.destroy()


@pytest.fixture
def authority(acme_python: str, node: AcmeNode, short_folder: Path) -> Iterator[Authority]:
    yield from serve(acme_python, node, short_folder)


def serve(python: str, node: AcmeNode, folder: Path) -> Iterator[Authority]:
    """Run the server in the node's network."""
    log = (folder / "log").open("wb")
    argv = node.inside(python, str(Path(__file__).with_name("serles_ca.py")), str(folder), str(PORT))
    process = subprocess.Popen(argv, stdout=log, stderr=log)
    found = Authority(folder, process)
    found.say()
    try:
        end = time.monotonic() + 60
        words = ("curl", "-s", "-m", "2", "--cacert", found.pem, found.directory)
        while subprocess.run(node.inside(*words), capture_output=True, timeout=20, check=False).returncode != 0:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield found
    finally:
        process.kill()
        process.wait(10)
        log.close()
