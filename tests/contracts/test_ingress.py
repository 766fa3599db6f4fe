"""What every ingress driver keeps, the fake and the real one alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.drivers.ingress.base import IngressDriver
from nebh.drivers.ingress.fake import FakeIngress
from nebh.drivers.ingress.haproxy import PROGRAM, HaproxyIngress
from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.host.worker import Worker
from nebh.model.errors import BadInput, Failed
from nebh.model.network import Backend, IngressPlan, Slot, SlotChange, SlotState
from nebh.model.service import Route

USER = 64991
SLOTS = (Slot(number=0, address="127.0.0.2", state=SlotState.READY), Slot(number=3, address="127.0.0.3"))
WEB = Backend(service="web", port=8080, routes=(Route(port=8080, host="web.example"),), slots=SLOTS)
PLAN = IngressPlan(http_port=8000, https_port=8443, backends=(WEB,))


@pytest.fixture(params=["fake", pytest.param("haproxy", marks=pytest.mark.root)])
def ingress(request: pytest.FixtureRequest) -> Iterator[IngressDriver]:
    if request.param == "fake":
        yield FakeIngress()
        return
    if not Path(PROGRAM).exists():
        pytest.skip("haproxy is not installed")
    folder: Path = request.getfixturevalue("short_folder")
    netns = request.getfixturevalue("private_netns")
    folder.chmod(0o755)

    def enter() -> None:
        descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY)
        setns(descriptor, CLONE_NEWNET)
        os.close(descriptor)

    networker = Worker.fork("networker", {}, setup=enter)
    state, run = folder / "state", folder / "run"
    driver = HaproxyIngress(state=state, run=run, spawn=networker.spawn, uid=USER, gid=USER, seen_from=networker.pid)
    try:
        yield driver
    finally:
        driver.stop()
        networker.close()


def _change(number: int, state: SlotState, backend: str = "web:8080") -> tuple[SlotChange, ...]:
    return (SlotChange(backend=backend, number=number, state=state),)


def test_ensure_may_be_repeated_and_names_its_ports(ingress: IngressDriver) -> None:
    assert ingress.exposed() == ()
    ingress.ensure(PLAN)
    ingress.ensure(PLAN)
    assert ingress.exposed() == (8000,)


def test_counters_name_the_slots_of_one_backend(ingress: IngressDriver) -> None:
    ingress.ensure(PLAN)
    counters = ingress.counters("web:8080")
    assert sorted(counters) == [0, 3]
    assert (counters[0].current, counters[0].queued, counters[0].errors) == (0, 0, 0)
    assert ingress.counters("nobody:1") == {}


def test_switch_takes_slots_of_the_plan_only(ingress: IngressDriver) -> None:
    ingress.ensure(PLAN)
    ingress.switch(_change(3, SlotState.READY) + _change(0, SlotState.DRAIN))
    for unknown in (_change(1, SlotState.READY), _change(0, SlotState.READY, "nobody:1")):
        with pytest.raises(Failed):
            ingress.switch(unknown)


def test_configure_makes_new_slots_known(ingress: IngressDriver) -> None:
    ingress.ensure(PLAN)
    more = replace(WEB, slots=(*SLOTS, Slot(number=9, address="127.0.0.9", state=SlotState.READY)))
    ingress.configure(replace(PLAN, backends=(more,)))
    assert sorted(ingress.counters("web:8080")) == [0, 3, 9]
    ingress.switch(_change(9, SlotState.READY))
    ingress.record(replace(PLAN, backends=(more,)))
    ingress.configure(PLAN)
    assert sorted(ingress.counters("web:8080")) == [0, 3]


def test_tcp_routes_are_exposed(ingress: IngressDriver) -> None:
    ingress.ensure(PLAN)
    routes = (*WEB.routes, Route(port=8080, tcp_port=9000))
    ingress.configure(replace(PLAN, backends=(replace(WEB, routes=routes),)))
    assert ingress.exposed() == (8000, 9000)


def test_claims_of_two_services_are_refused(ingress: IngressDriver) -> None:
    ingress.ensure(PLAN)
    for route in (WEB.routes[0], Route(port=1, tcp_port=8000), Route(port=1, host="a b")):
        other = Backend(service="other", port=1, routes=(route,))
        with pytest.raises(BadInput):
            ingress.configure(replace(PLAN, backends=(WEB, other)))


def test_nothing_works_before_ensure_and_after_stop(ingress: IngressDriver) -> None:
    with pytest.raises(Failed):
        ingress.configure(PLAN)
    ingress.ensure(PLAN)
    ingress.stop()
    assert ingress.exposed() == ()
    with pytest.raises(Failed):
        ingress.counters("web:8080")
    with pytest.raises(Failed):
        ingress.switch(_change(0, SlotState.READY))
    ingress.ensure(PLAN)
    assert ingress.exposed() == (8000,)
