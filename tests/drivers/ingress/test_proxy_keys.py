"""Certificates that are no files: real HAProxy takes, changes and loses them without a reload, and nobody else sees them."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.model.errors import Failed
from nebh.model.network import Backend, IngressPlan, Slot, SlotState
from nebh.model.service import Acme, Route, RouteTls

pytestmark = pytest.mark.root

HOST = "safe.example"
SECRET = Route(port=8080, host=HOST, tls=RouteTls(secret="tls"))
ACME = Route(port=8080, host="acme.example", tls=RouteTls(acme=Acme()))


def plan(*routes: Route, **fields: object) -> IngressPlan:
    slots = (Slot(number=0, address="127.0.0.1", state=SlotState.READY),)
    backend = Backend(service="web", port=8080, routes=routes, slots=slots)
    return IngressPlan(http_port=80, https_port=443, backends=(backend,), **fields)


def make_pem(folder: Path, host: str, name: str) -> tuple[bytes, str]:
    """A chain with its key, and the path of the certificate."""
    key, cert = folder / f"{name}.key", folder / f"{name}.crt"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return cert.read_bytes() + key.read_bytes(), str(cert)


def https(place, host: str, cert: str) -> str:
    """What HTTPS answers to who trusts only `cert`; "" when the handshake fails."""
    done = place.curl("--resolve", f"{host}:443:127.0.0.1", "--cacert", cert, f"https://{host}/")
    return json.loads(done.stdout)["version"] if done.returncode == 0 else ""


def ledger(place) -> tuple[str, int]:
    found = json.loads((place.folder / "state" / "ledger.json").read_bytes())
    return found["structure"], found["pid"]


def workers(ingress) -> tuple[int, ...]:
    return ingress._runtime.workers()


def files_with(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_a_certificate_comes_and_changes_without_a_reload(place, tmp_path):
    place.backend("127.0.0.1", "v1")
    ingress = place.ingress()
    ingress.ensure(plan(SECRET))
    assert place.ask(HOST)["version"] == "v1"  # it waits for its certificate: plain HTTP goes on
    first, cert = make_pem(tmp_path, HOST, "first")
    second, other = make_pem(tmp_path, HOST, "second")
    assert https(place, HOST, cert) == ""
    worker = workers(ingress)
    ingress.configure(plan(SECRET, pems={HOST: first}))
    assert https(place, HOST, cert) == "v1"
    assert place.ask(HOST)["status"] == 308
    ingress.configure(plan(SECRET, pems={HOST: second}))
    assert (https(place, HOST, cert), https(place, HOST, other)) == ("", "v1")
    assert workers(ingress) == worker
    line = second.splitlines()[-3]
    assert files_with(place.folder, line) == []
    (place.folder / "planted").write_bytes(second)
    assert files_with(place.folder, line) == [place.folder / "planted"]  # the search sees one that is there
    ingress.configure(plan(SECRET))
    assert https(place, HOST, other) == ""
    assert place.ask(HOST)["version"] == "v1"


def test_it_outlives_a_reload_a_kill_and_a_new_executor(place, tmp_path):
    place.backend("127.0.0.1", "v1")
    pem, cert = make_pem(tmp_path, HOST, "first")
    ingress = place.ingress()
    now = plan(SECRET, pems={HOST: pem})
    ingress.ensure(now)
    assert https(place, HOST, cert) == "v1"
    more = plan(SECRET, Route(port=8080, tcp_port=9000), pems={HOST: pem})
    worker = workers(ingress)
    ingress.configure(more)
    assert workers(ingress) != worker
    assert https(place, HOST, cert) == "v1"
    again = place.ingress()  # adopts what runs, and knows nothing of what it was given
    newer, other = make_pem(tmp_path, HOST, "newer")
    again.ensure(replace(more, pems={HOST: newer}))
    assert https(place, HOST, other) == "v1"
    again.stop()
    again.ensure(replace(more, pems={HOST: newer}))
    assert https(place, HOST, other) == "v1"
    assert not (place.folder / "run" / "keys").exists()


def test_a_reload_fails_no_handshake(place, tmp_path):
    place.backend("127.0.0.1", "v1")
    pem, cert = make_pem(tmp_path, HOST, "first")
    ingress = place.ingress()
    ingress.ensure(plan(SECRET, pems={HOST: pem}))
    found: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found.append(https(place, HOST, cert))

    thread = threading.Thread(target=ask)
    thread.start()
    for port in (9000, 9001):
        ingress.configure(plan(SECRET, Route(port=8080, tcp_port=port), pems={HOST: pem}))
    stop.set()
    thread.join()
    assert len(found) > 5
    assert set(found) == {"v1"}


def test_what_the_proxy_refuses_leaves_the_old_one(place, tmp_path):
    place.backend("127.0.0.1", "v1")
    pem, cert = make_pem(tmp_path, HOST, "first")
    other, _ = make_pem(tmp_path, HOST, "other")
    ingress = place.ingress()
    ingress.ensure(plan(SECRET, pems={HOST: pem}))
    mixed = pem[: pem.index(b"-----BEGIN PRIVATE")] + other[other.index(b"-----BEGIN PRIVATE") :]
    with pytest.raises(Failed, match="inconsistencies between private key and certificate"):
        ingress.configure(plan(SECRET, pems={HOST: mixed}))
    assert https(place, HOST, cert) == "v1"
    ingress.configure(plan(SECRET, pems={HOST: pem}))
    assert https(place, HOST, cert) == "v1"


def test_challenges_are_answered_for_acme_hosts_alone(place, tmp_path):
    place.backend("127.0.0.1", "v1")
    ingress = place.ingress()
    pem, _ = make_pem(tmp_path, ACME.host, "acme")
    both = plan(ACME, Route(port=8080, host="web.example"), challenges={ACME.host: "THUMB"}, pems={ACME.host: pem})
    ingress.ensure(both)

    def token(host: str, path: str) -> str:
        return place.curl("-H", f"Host: {host}", f"http://127.0.0.1/.well-known/acme-challenge/{path}").stdout

    assert token(ACME.host, "to-ken_1") == "to-ken_1.THUMB"  # not redirected, though it has HTTPS
    assert place.ask(ACME.host)["status"] == 308
    assert '"version": "v1"' in token("web.example", "to-ken_1")
    for bad in ("a%3Cb", "a/b", "a.b", ""):
        assert "THUMB" not in token(ACME.host, bad)
