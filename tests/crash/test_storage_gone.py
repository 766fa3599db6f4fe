"""The disk below a service's data answers with errors, under load, in a whole cloud: what happens is told, and the service
comes back by itself with every row that a client was told of."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import pytest

from nebh.drivers.volumes.pool import PoolPlan, find_lack
from nebh.model.errors import NotFound
from nebh.testing.crash.data_site import DataSite
from nebh.testing.disks.disk import find_obstacle
from nebh.testing.disks.pools import FailingDevice
from nebh.testing.tiny_service import HOST

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]
SIZE = 256 << 20


@pytest.fixture
def disk(tmp_path):
    if obstacle := find_obstacle():
        pytest.skip(f"no disk of our own: {obstacle}")
    if lack := find_lack(PoolPlan(mount=tmp_path / "pool", device=Path("/dev/null"))):
        pytest.skip(f"no pool of volumes: {lack}")
    made = FailingDevice(tmp_path / "disk", size=SIZE)
    try:
        yield made
    finally:
        made.fuse.tell("heal")
        made.close()


@pytest.fixture
def site(disk):
    made = DataSite(Path("/var/tmp") / f"nt-{secrets.token_hex(3)}", device=disk.device)
    try:
        made.begin()
        yield made
    except NotFound as error:
        pytest.skip(str(error))
    finally:
        made.end_load_later()
        made.destroy()


def until(what: str, look, *, patience: float = 120.0):
    end = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.2)
    return found


def events(site, kind: str) -> list[dict]:
    found = json.loads(site.nebh("events", "--json").stdout)["events"]
    return [one for one in found if one["kind"] == kind]


def test_a_disk_that_fails_is_told_and_the_service_comes_back_by_itself(site, disk):
    until("rows are written", lambda: len(site.acked) > 20)
    assert events(site, "storage.gone") == []
    disk.fuse.tell("fail 0 1000000")
    (gone,) = until("it is told that the storage is gone", lambda: events(site, "storage.gone"))
    assert gone["severity"] == "alarm"
    assert "web" in gone["message"]
    assert "come back by themselves" in gone["hint"]
    until("the service has ended", lambda: site.writers() == 0)
    told = list(site.acked)
    time.sleep(6)
    assert (site.writers(), site.get(host=HOST)[0] == 200) == (0, False), "it waits for its storage"
    disk.fuse.tell("heal")
    until("it is told that the storage is back", lambda: events(site, "storage.back"))
    until("rows are written again", lambda: len(site.acked) > len(told) + 10)
    assert set(site.acked) <= set(site.table()), "a row that a client was told of is lost"
    assert site.writers() == 1
