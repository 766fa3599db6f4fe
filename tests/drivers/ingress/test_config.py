"""HAProxy's files are pure functions, held by golden files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.drivers.ingress.config import (
    Layout,
    Places,
    backend_count,
    certificates_text,
    check_routes,
    config_text,
    map_text,
    number_backends,
    ports_of,
    routes_map,
    secure_map,
    structure_hash,
    with_live_states,
)
from nebh.model.errors import BadInput
from nebh.model.network import Backend, IngressPlan, Slot, SlotState
from nebh.model.service import Route, RouteTls

GOLDEN = Path(__file__).parents[2] / "golden"
PLACES = Places(
    admin_socket="/run/nebh/ingress/admin.sock",
    master_socket="/run/nebh/ingress/master.sock",
    routes="/var/lib/nebh/ingress/routes.map",
    secure="/var/lib/nebh/ingress/secure.map",
    certificates="/var/lib/nebh/ingress/certificates.list",
    bundles="/var/lib/nebh/ingress/bundles",
    challenges="/var/lib/nebh/ingress/challenges.map",
    keys="/run/nebh/ingress/keys",
)
TLS = RouteTls(cert="/etc/c.pem", key="/etc/k.pem")
WEB = Backend(
    service="web",
    port=8080,
    routes=(Route(port=8080, host="Web.example", tls=TLS), Route(port=8080, host="web.example", path="/api/v1/")),
    slots=(
        Slot(number=0, address="10.90.8.0", state=SlotState.DRAIN),
        Slot(number=1, address="10.90.8.1", state=SlotState.READY),
        Slot(number=9, address="fd00:90::808", state=SlotState.MAINT),
    ),
)
MAIL = Backend(
    service="mail",
    port=2525,
    routes=(Route(port=2525, tcp_port=25), Route(port=2525, tcp_port=587)),
    slots=(Slot(number=0, address="10.90.8.2", state=SlotState.READY),),
)
SITE = Backend(service="site", port=80, routes=(Route(port=80),))
PLAN = IngressPlan(http_port=80, https_port=443, backends=(WEB, MAIL, SITE))
LAYOUT = Layout(plan=PLAN, numbers={"web:8080": 1, "mail:2525": 0, "site:80": 2}, bundles={"web.example": "abc.pem"})


def _hold(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("NEBH_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{name} differs; NEBH_WRITE_GOLDEN=1 writes it anew"


def test_golden_files():
    _hold("haproxy_full.cfg", config_text(LAYOUT, PLACES))
    texts = (map_text(routes_map(LAYOUT)), map_text(secure_map(LAYOUT)), certificates_text(LAYOUT, PLACES))
    _hold("haproxy_files.txt", "\n".join(texts))


def test_golden_empty():
    empty = Layout(plan=IngressPlan(http_port=8080, https_port=8443), numbers={}, ipv6=False)
    _hold("haproxy_empty.cfg", config_text(empty, PLACES))


def test_numbers_stay_and_gaps_are_filled():
    known = {"web:8080": 4, "gone:1": 0}
    assert number_backends(PLAN, known) == {"web:8080": 4, "mail:2525": 0, "site:80": 1}


def test_spare_backends_grow_in_steps():
    assert [backend_count(numbers) for numbers in ((), (63,), (64,), (3, 130))] == [64, 64, 128, 192]


def test_only_listeners_and_certificates_change_the_structure():
    def digest(*backends: Backend, **changes: object) -> str:
        plan = replace(PLAN, backends=backends)
        layout = replace(LAYOUT, plan=plan, numbers=number_backends(plan, LAYOUT.numbers), **changes)
        return structure_hash(layout, PLACES)

    now = digest(WEB, MAIL, SITE)
    assert digest(replace(WEB, slots=()), MAIL, SITE) == now
    assert digest(WEB, MAIL) == now
    assert digest(WEB, MAIL, replace(SITE, routes=(Route(port=80, host="x"),))) == now
    assert digest(WEB, SITE) != now
    assert digest(WEB, MAIL, SITE, bundles={"web.example": "def.pem"}) != now


def test_ports():
    assert ports_of(PLAN) == (25, 80, 443, 587)
    assert ports_of(replace(PLAN, backends=(SITE,))) == (80,)


@pytest.mark.parametrize("route", [Route(port=1, host="a b"), Route(port=1, path="/a\n"), Route(port=1, tcp_port=80)])
def test_routes_that_no_file_can_hold(route):
    with pytest.raises(BadInput):
        check_routes(replace(PLAN, backends=(replace(SITE, routes=(route,)),)))


def test_live_states_win_and_what_moved_is_in_maint():
    live = {
        ("web:8080", 0): Slot(number=0, address="10.90.8.0", state=SlotState.READY),
        ("web:8080", 1): Slot(number=1, address="10.90.9.9", state=SlotState.READY),
    }
    web = with_live_states(PLAN, live).backends[0]
    assert [slot.state for slot in web.slots] == [SlotState.READY, SlotState.MAINT, SlotState.MAINT]
