"""kill -9 and power cuts while data is written, converted, taken back and brought back: no committed row is lost, no
triple mixed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from nebh.drivers.volumes.base import POINTS as DRIVER_POINTS
from nebh.drivers.volumes.pool import PoolPlan, find_lack
from nebh.executor.effects import fault_points
from nebh.model.errors import NotFound
from nebh.testing.crash.data_campaign import POINTS, WORKS, plan_data_shots, run_data_campaign
from nebh.testing.crash.data_site import DataSite


@pytest.fixture(params=["pool", "copy"])
def site(machine: None, request: pytest.FixtureRequest) -> Iterator[DataSite]:
    if request.param == "pool" and find_lack(PoolPlan(mount=Path("/"))):
        pytest.skip(find_lack(PoolPlan(mount=Path("/"))))
    with DataSite(Path(f"/var/tmp/nt-{secrets.token_hex(3)}"), storage=request.param) as made:
        try:
            made.begin()
        except NotFound as error:
            pytest.skip(str(error))
        yield made


def kill(site: DataSite, *, kills: int, seed: int) -> None:
    print(f"seed {seed}")
    tally = run_data_campaign(site, kills=kills, seed=seed, say=print)
    print(tally.table())
    assert tally.kills == kills
    assert tally.requests >= 10 * kills, "somebody wrote all the time"


@pytest.mark.root
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_no_row_is_lost_whatever_is_killed(site: DataSite) -> None:
    kill(site, kills=20, seed=5)


@pytest.mark.root
@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(5400)
def test_no_row_is_lost_in_two_hundred_kills(site: DataSite) -> None:
    kill(site, kills=100, seed=secrets.randbelow(1 << 32))


def test_every_named_point_exists() -> None:
    named = {point for points in POINTS.values() for point in points}
    assert named <= {*fault_points(), *DRIVER_POINTS}
    assert set(POINTS) == set(WORKS)
    first = list(islice(plan_data_shots(Random(1)), 40))
    assert first == list(islice(plan_data_shots(Random(1)), 40))
    assert {shot.work for shot in first} == set(WORKS)
