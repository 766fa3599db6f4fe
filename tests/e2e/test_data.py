"""A service with data in a real cloud: what is written is there or gone exactly as it was asked for."""

from __future__ import annotations

import json

import pytest

from nebh.model.errors import NotFound
from nebh.testing.row_service import HOST, Rows, write_rows

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]
ANY = tuple(range(256))


@pytest.fixture(scope="module")
def deploy(cloud, disk_folder):
    def act(version: str, *, accept: tuple[int, ...] = (0,), **wish):
        try:
            spec = write_rows(disk_folder, Rows(version=version, **wish))
        except NotFound as error:
            pytest.skip(str(error))
        done = cloud.nebh("deploy", "--yes-widen", "--json", str(spec), accept=accept)
        return json.loads(done.stdout)

    return act


def add(cloud) -> int:
    status, body = cloud.get("/row", host=HOST, method="POST")
    assert status == 200
    return int(body.split()[0])


def table(cloud) -> list[str]:
    status, body = cloud.get("/rows", host=HOST)
    assert status == 200
    return body.splitlines()


def answers(cloud) -> list[str]:
    return cloud.get("/", host=HOST)[1].split()


def outcome(done) -> str:
    return next(iter(done["receipts"]))["outcome"]


def test_rows_outlive_an_update_a_migration_and_a_power_cut(cloud, deploy, eventually):
    deploy("v1")
    assert [add(cloud) for _ in range(3)] == [1, 2, 3]
    deploy("v2", reads=(1, 2), writes=2, convert=("2",))
    assert answers(cloud) == ["v2", "v2", "2", "2", "4"]
    assert table(cloud) == ["1 1", "2 1", "3 1", "4 convert"]
    add(cloud)
    cloud.power_cut()
    cloud.up()
    eventually(lambda: answers(cloud)[-1] == "5")


def test_a_broken_migration_leaves_the_old_release_on_the_old_data(cloud, deploy):
    before = table(cloud)
    done = deploy("v3", reads=(2, 3), writes=3, convert=("3", "7"), accept=ANY)
    assert outcome(done) == "rolled-back"
    assert "exited with code 7" in json.dumps(done)
    assert (table(cloud), answers(cloud)[:4]) == (before, ["v2", "v2", "2", "2"])


def test_an_operator_goes_back_with_the_data_and_takes_that_back(cloud, deploy):
    before = table(cloud)
    deploy("v4", reads=(2, 4), writes=4, convert=("4",))
    add(cloud)
    with_v4 = table(cloud)
    refused = cloud.nebh("rollback", "rows", "--json", accept=ANY)
    assert refused.status != 0
    assert "the data has version 4" in refused.stdout.decode() + refused.stderr.decode()
    done = json.loads(cloud.nebh("rollback", "rows", "--data", "restore", "--yes", "--json", accept=ANY).stdout)
    assert outcome(done) == "committed", json.dumps(done)
    assert (table(cloud), answers(cloud)[:4]) == (before, ["v2", "v2", "2", "2"])
    cloud.nebh("volume", "undo", "rows", "--yes")
    assert (table(cloud), answers(cloud)[:4]) == (with_v4, ["v4", "v4", "4", "4"])
    listed = json.loads(cloud.nebh("volume", "list", "rows", "--json").stdout)["volumes"]
    assert [(one["name"], one["version"], one["counter"]) for one in listed] == [("data", 4, 4)]


def test_a_broken_release_goes_back_as_its_policy_says(cloud, deploy):
    before = table(cloud)
    done = deploy("v5", reads=(4,), writes=4, broken=True, accept=ANY)
    assert outcome(done) == "rolled-back"
    assert (table(cloud)[: len(before)], answers(cloud)[:2]) == (before, ["v4", "v4"])
    done = deploy("v6", reads=(4, 5), writes=5, broken=True, convert=("5",), on_failure="restore", accept=ANY)
    assert outcome(done) == "rolled-back"
    assert (table(cloud), answers(cloud)[:4]) == (before, ["v4", "v4", "4", "4"])
