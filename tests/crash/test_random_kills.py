"""kill -9 of everything there is, in every state of a transaction, under load; then the whole node is looked at."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from nebh.executor.effects import fault_points
from nebh.testing.crash.campaign import POINTS, STATES, plan_shots, run_campaign
from nebh.testing.crash.site import VICTIMS, Site

BUILD = Path(__file__).parents[2] / "build"
DRIVERS_POINTS = {"container.create.after", "container.delete.after_processes"}


@pytest.fixture
def site(machine: None) -> Iterator[Site]:
    with Site(Path(f"/var/tmp/nt-{secrets.token_hex(3)}")) as made:
        made.begin()
        yield made


def kill(site: Site, *, kills: int, seed: int) -> None:
    print(f"seed {seed}: the same kills again with `make crash KILLS={kills} ARGS=--seed={seed}`")
    tally = run_campaign(site, kills=kills, seed=seed, say=print)
    print(tally.table())
    if BUILD.is_dir():
        (BUILD / f"kills-{kills}.txt").write_text(tally.table() + "\n")
    assert tally.kills == kills
    assert tally.inside >= 0.8
    assert tally.empty_rows() == []


@pytest.mark.root
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_killed_in_every_state(site: Site) -> None:
    kill(site, kills=8, seed=3)


@pytest.mark.root
@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_a_hundred_times(site: Site) -> None:
    kill(site, kills=120, seed=secrets.randbelow(1 << 32))


def test_the_plan_is_the_same_for_the_same_seed() -> None:
    first, second, other = (list(islice(plan_shots(Random(seed)), 60)) for seed in (1, 1, 2))
    assert first == second != other
    assert {shot.victim for shot in first[:7]} == set(VICTIMS)


def test_every_named_point_exists_and_few_are_left_out() -> None:
    named = {point for points in POINTS.values() for point in points}
    assert named - DRIVERS_POINTS <= set(fault_points())
    assert set(POINTS) == {*STATES, ""}
    # what only its own scenario passes is killed at in test_fault_points.py
    left = {point.rpartition(".")[0].partition(".")[0] for point in set(fault_points()) - named}
    # test_data_kills, test_backup_kills, test_rehearse_kills, test_secret_rotation, test_fault_points, tests/acme, tests/executor
    elsewhere = {"backup", "certificate", "data", "hook", "rehearse", "reload", "rotate", "storage"}
    assert left <= {"start", "back", "revive", "state", "cutover", "prepare", *elsewhere}
