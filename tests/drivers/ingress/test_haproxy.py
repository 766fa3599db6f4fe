"""Real HAProxy: what it does with requests, and that it loses none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.host import processes
from nebh.model.errors import BadInput, Failed
from nebh.model.network import Backend, IngressPlan, Slot, SlotChange, SlotState
from nebh.model.service import Route, RouteTls

pytestmark = pytest.mark.root

READY, DRAIN, MAINT = SlotState.READY, SlotState.DRAIN, SlotState.MAINT
WEB = Route(port=8080, host="web.example")


def _backend(*states: SlotState, routes: tuple[Route, ...] = (WEB,), service: str = "web") -> Backend:
    slots = tuple(Slot(number=n, address=f"127.0.0.{n + 1}", state=state) for n, state in enumerate(states))
    return Backend(service=service, port=8080, routes=routes, slots=slots)


def _plan(*backends: Backend) -> IngressPlan:
    return IngressPlan(http_port=80, https_port=443, backends=backends)


def _turn(number: int, state: SlotState, backend: str = "web:8080") -> SlotChange:
    return SlotChange(backend=backend, number=number, state=state)


def test_longest_prefix_any_host_and_unknown_hosts(place):
    for number, version in ((1, "one"), (2, "two"), (3, "three")):
        place.backend(f"127.0.0.{number}", version)
    routes = (WEB, Route(port=8080, host="web.example", path="/api/"), Route(port=8080, path="/any"))
    backends = tuple(
        Backend(
            service=f"s{n}", port=8080, routes=(route,), slots=(Slot(number=0, address=f"127.0.0.{n}", state=READY),)
        )
        for n, route in enumerate(routes, start=1)
    )
    place.ingress().ensure(_plan(*backends))
    paths = ("/", "/apix", "/api", "/api/x?q=/", "/any")
    assert [place.ask("Web.Example.:80", path)["version"] for path in paths] == ["one", "one", "two", "two", "one"]
    assert place.ask("other.example", "/any/thing")["version"] == "three"
    unknown = place.ask("other.example")
    assert unknown["status"] == 404
    assert "other.example" in unknown["body"]
    assert place.ask("web.example/api", "/x")["status"] == 400


def test_forwarded_headers_are_ours(place):
    place.backend("127.0.0.1", "v1")
    place.ingress().ensure(_plan(_backend(READY)))
    lies = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: gopher", "X-Forwarded-Host: evil", "Forwarded: for=6.6.6.6")
    headers = place.ask("web.example", "/", *(word for lie in lies for word in ("-H", lie)))["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert "x-forwarded-host" not in headers
    assert "forwarded" not in headers


def test_new_services_slots_and_routes_need_no_reload(place):
    place.backend("127.0.0.1", "v1")
    place.backend("127.0.0.12", "v2")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY)))
    master = (place.folder / "state" / "ledger.json").read_bytes()
    far = Slot(number=11, address="127.0.0.12", state=READY)  # beyond the spare slots: added at run time
    other = Backend(service="api", port=8080, routes=(Route(port=8080, host="api.example"),), slots=(far,))
    ingress.configure(_plan(_backend(READY), other))
    assert place.ask("api.example")["status"] == 503
    ingress.switch((_turn(11, READY, "api:8080"),))
    assert place.ask("api.example")["version"] == "v2"
    ingress.configure(_plan(_backend(READY, routes=(Route(port=8080, host="new.example"),)), other))
    assert place.ask("web.example")["status"] == 404
    assert place.ask("new.example")["version"] == "v1"
    ledger = json.loads((place.folder / "state" / "ledger.json").read_bytes())
    assert ledger["structure"] == json.loads(master)["structure"]


def test_a_service_that_leaves_gives_its_place_to_another(place):
    place.backend("127.0.0.1", "v1")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY)))
    ingress.configure(_plan(_backend(READY, service="next", routes=(Route(port=8080, host="next.example"),))))
    assert place.ask("web.example")["status"] == 404
    assert place.ask("next.example")["status"] == 503  # a new slot comes up in maint
    with pytest.raises(Failed):
        ingress.switch((_turn(0, READY),))


def test_tcp_routes_reload_in_prepare_and_follow_switches(place):
    place.backend("127.0.0.1", "v1")
    place.backend("127.0.0.2", "v2")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY, MAINT)))
    routes = (WEB, Route(port=8080, tcp_port=9000))
    ingress.configure(_plan(_backend(READY, MAINT, routes=routes)))
    assert ingress.exposed() == (80, 9000)
    assert json.loads(place.curl("http://127.0.0.1:9000/").stdout)["version"] == "v1"
    ingress.switch((_turn(0, DRAIN), _turn(1, READY)))
    assert json.loads(place.curl("http://127.0.0.1:9000/").stdout)["version"] == "v2"
    assert place.ask("web.example")["version"] == "v2"
    assert ingress.counters("web:8080")[1].total == 2


def test_the_port_of_somebody_else_is_named(place):
    other = place.backend("127.0.0.1", "v1", port=80)
    with pytest.raises(BadInput, match=rf"TCP port 80: python\S* \(process {other.pid}\)"):
        place.ingress().ensure(_plan(_backend(READY)))


def test_a_taken_port_in_prepare_leaves_what_runs(place):
    place.backend("127.0.0.1", "v1")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY)))
    with pytest.raises(BadInput, match="port 8080"):
        ingress.configure(_plan(_backend(READY, routes=(WEB, Route(port=8080, tcp_port=8080)))))
    assert place.ask("web.example")["version"] == "v1"


def _certificate(folder, host):
    key, cert = folder / "key.pem", folder / "cert.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-keyout", str(key), "-out", str(cert), "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return RouteTls(cert=str(cert), key=str(key))


def test_tls_hosts_redirect_and_speak_http2(place):
    place.backend("127.0.0.1", "v1")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY)))
    tls = _certificate(place.folder, "safe.example")
    routes = (WEB, Route(port=8080, host="safe.example", tls=tls))
    ingress.configure(_plan(_backend(READY, routes=routes)))
    moved = place.curl("-i", "-H", "Host: safe.example", "http://127.0.0.1/a?b=c").stdout
    assert "308" in moved
    assert "location: https://safe.example/a?b=c" in moved
    assert place.ask("web.example")["version"] == "v1"
    resolve = ("--resolve", "safe.example:443:127.0.0.1", "--cacert", tls.cert)
    done = place.curl(*resolve, "-w", "\n%{http_version}", "https://safe.example/")
    body, _, version = done.stdout.rpartition("\n")
    assert version == "2"
    assert json.loads(body)["headers"]["x-forwarded-proto"] == "https"
    old = place.curl(*resolve, "--tls-max", "1.1", "https://safe.example/")
    assert old.returncode == 35
    (bundle,) = (place.folder / "state" / "bundles").iterdir()
    assert bundle.stat().st_mode & 0o777 == 0o600
    os.unlink(tls.cert)  # the bundle made from it serves on, over a cold start too
    ingress.stop()
    again = place.ingress()
    again.ensure(_plan(_backend(READY, routes=routes)))
    assert place.curl(*resolve[:2], "--cacert", str(bundle), "https://safe.example/").returncode == 0
    again.stop()
    bundle.unlink()  # without any, all others must come up
    again = place.ingress()
    again.ensure(_plan(_backend(READY, routes=routes)))
    assert place.ask("web.example")["version"] == "v1"
    again.configure(_plan(_backend(READY, routes=(WEB,))))
    assert again.exposed() == (80,)


def test_a_bad_certificate_is_refused_and_changes_nothing(place):
    place.backend("127.0.0.1", "v1")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY)))
    bad = place.folder / "bad.pem"
    bad.write_text("no certificate\n")
    route = Route(port=8080, host="safe.example", tls=RouteTls(cert=str(bad), key=str(bad)))
    with pytest.raises(Failed, match="cannot change the proxy's listeners"):
        ingress.configure(_plan(_backend(READY, routes=(WEB, route))))
    assert place.ask("web.example")["version"] == "v1"
    ingress.configure(_plan(_backend(READY)))
    assert place.ask("web.example")["version"] == "v1"


def test_adopts_what_runs_and_starts_what_died(place):
    place.backend("127.0.0.1", "v1")
    place.backend("127.0.0.2", "v2")
    first = place.ingress()
    first.ensure(_plan(_backend(READY, MAINT)))
    first.switch((_turn(1, READY), _turn(0, DRAIN)))
    first.record(_plan(_backend(DRAIN, READY)))
    pid = json.loads((place.folder / "state" / "ledger.json").read_bytes())["pid"]
    second = place.ingress()
    second.ensure(_plan(_backend(DRAIN, READY)))
    assert json.loads((place.folder / "state" / "ledger.json").read_bytes())["pid"] == pid
    master = processes.identify(pid)
    assert master is not None
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_end(master, seconds=5)
    with pytest.raises(Failed):
        second.configure(_plan(_backend(DRAIN, READY)))
    second.ensure(_plan(_backend(DRAIN, READY)))
    assert place.ask("web.example")["version"] == "v2"
    second.switch((_turn(0, READY), _turn(1, DRAIN)))  # a cold start left slot 0 with weight 0
    assert {place.ask("web.example")["version"] for _ in range(4)} == {"v1"}
    (place.folder / "state" / "ledger.json").unlink()  # we died between its start and our note
    third = place.ingress()
    third.ensure(_plan(_backend(READY, DRAIN)))
    assert place.ask("web.example")["version"] == "v1"


def test_the_workers_of_a_killed_proxy_are_waited_for(place):
    """They end a moment after their master, and hold its ports until then: here for as long as we stop one."""
    place.backend("127.0.0.1", "v1")
    first = place.ingress()
    first.ensure(_plan(_backend(READY)))
    pid = json.loads((place.folder / "state" / "ledger.json").read_bytes())["pid"]
    (worker,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    os.kill(worker, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    timer = threading.Timer(1.0, os.kill, (worker, signal.SIGCONT))
    timer.start()
    place.ingress().ensure(_plan(_backend(READY)))
    timer.join()
    assert place.ask("web.example")["version"] == "v1"


def test_connections_that_outlive_a_reload_hold_up_prepare_and_drain(place):
    place.backend("127.0.0.1", "v1")
    place.backend("127.0.0.2", "v2")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY, MAINT)))
    client = place.start(sys.executable, "-c", ASKS_WHEN_TOLD, stdin=subprocess.PIPE)
    assert _told(client) == "v1"
    more = _plan(_backend(READY, MAINT, routes=(WEB, Route(port=8080, tcp_port=9000))))
    thread = threading.Thread(target=ingress.configure, args=(more,))
    thread.start()
    thread.join(2.0)
    assert thread.is_alive()  # one idle connection is left in the old worker
    ingress.switch((_turn(1, READY), _turn(0, DRAIN)))
    assert place.ask("web.example")["version"] == "v2"
    assert ingress.counters("web:8080")[0].current == 1  # it may bring a request yet
    assert _told(client) == "v1"
    assert _told(client) == "v2"  # the old worker has closed it; http.client connects again by itself
    thread.join(2.0)
    assert not thread.is_alive()
    assert ingress.counters("web:8080")[0].current == 0


ASKS_WHEN_TOLD = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", 80)
for line in sys.stdin:
    connection.request("GET", "/", headers={"Host": "web.example"})
    print(json.loads(connection.getresponse().read())["version"], flush=True)
"""


def _told(client):
    client.stdin.write("go\n")
    client.stdin.flush()
    return client.stdout.readline().strip()


def test_a_request_under_way_finishes_on_the_drained_slot(place):
    place.backend("127.0.0.1", "v1")
    place.backend("127.0.0.2", "v2")
    ingress = place.ingress()
    ingress.ensure(_plan(_backend(READY, MAINT)))
    slow = place.start("curl", "-s", "-H", "Host: web.example", "http://127.0.0.1/slow")
    while ingress.counters("web:8080")[0].current == 0:
        time.sleep(0.01)
    ingress.switch((_turn(1, READY), _turn(0, DRAIN)))
    assert place.ask("web.example")["version"] == "v2"
    assert ingress.counters("web:8080")[0].current == 1
    assert json.loads(slow.communicate(timeout=5)[0])["version"] == "v1"
    _drained(ingress, 0)


def _drained(ingress, number):
    for _ in range(250):
        counters = ingress.counters("web:8080")[number]
        if counters.current == 0 and counters.queued == 0:
            return
        time.sleep(0.02)
    pytest.fail(f"slot {number} did not drain")


def test_no_request_fails_over_switches_reloads_and_new_services(place):
    ingress = place.ingress()
    servers = {0: place.backend("127.0.0.1", "v0")}
    now = _plan(_backend(READY, MAINT))
    ingress.ensure(now)
    load = place.load("--host-header", "web.example", "--rate", "200", "--seconds", "60")
    time.sleep(1.0)
    for step in range(1, 13):
        new, old = step % 2, (step + 1) % 2
        servers[new] = place.backend(f"127.0.0.{new + 1}", f"v{step}")
        if step == 6:  # a reload while requests run
            routes = (WEB, Route(port=8080, tcp_port=9000))
            now = replace(now, backends=(replace(now.backends[0], routes=routes),))
        ingress.configure(now)
        ingress.switch((_turn(new, READY), _turn(old, DRAIN)))
        time.sleep(0.2)
        _drained(ingress, old)
        ingress.switch((_turn(old, MAINT),))
        servers.pop(old).kill()
        time.sleep(0.4)
    load.terminate()
    summary = json.loads(load.communicate(timeout=20)[0])
    assert summary["failed"] == 0, summary
    assert len(summary["versions"]) == 13
    assert summary["requests"] > 1000
    assert summary["kinds"].keys() == {"keepalive GET", "keepalive POST", "fresh GET", "fresh POST"}


def test_the_load_generator_sees_failures(place):
    ingress = place.ingress()
    server = place.backend("127.0.0.1", "v1")
    ingress.ensure(_plan(_backend(READY)))
    load = place.load("--host-header", "web.example", "--rate", "100", "--seconds", "3")
    time.sleep(1.5)
    server.kill()
    summary = json.loads(load.communicate(timeout=20)[0])
    assert load.returncode == 1
    assert summary["failed"] >= 5
