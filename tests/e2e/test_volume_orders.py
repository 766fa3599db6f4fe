"""`nebh volume` in a real cloud: what was written comes back, goes along or stays exactly as it was asked for."""

from __future__ import annotations

import json

import pytest

from nebh.model.errors import NotFound
from nebh.testing.row_service import HOST, Rows, write_rows

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]
ANY = tuple(range(256))
COPY = "copy.example"


@pytest.fixture(scope="module")
def deploy(cloud, disk_folder):
    def act(version: str, *, accept: tuple[int, ...] = (0,), **wish):
        try:
            spec = write_rows(disk_folder, Rows(version=version, **wish))
        except NotFound as error:
            pytest.skip(str(error))
        return json.loads(cloud.nebh("deploy", "--yes-widen", "--json", str(spec), accept=accept).stdout)

    return act


def add(cloud, host: str = HOST) -> int:
    status, body = cloud.get("/row", host=host, method="POST")
    assert status == 200
    return int(body.split()[0])


def table(cloud, host: str = HOST) -> list[str]:
    status, body = cloud.get("/rows", host=host)
    assert status == 200
    return body.splitlines()


def volume(cloud, *words: str, accept: tuple[int, ...] = (0,)):
    done = cloud.nebh("volume", *words, "--json", accept=accept)
    return json.loads(done.stdout) if done.status == 0 else done.stdout.decode() + done.stderr.decode()


def kept(cloud, kind: str) -> list[str]:
    return [one["name"] for one in volume(cloud, "snapshots", "rows")["snapshots"] if one["kind"] == kind]


def test_a_snapshot_is_taken_while_the_service_serves_and_restored(cloud, deploy):
    deploy("v1")
    for _ in range(3):
        add(cloud)
    done = volume(cloud, "snapshot", "rows")
    name = done["snapshot"]
    assert done["receipts"][0]["outcome"] == "done", done
    assert f"data kept as {name}" in done["receipts"][0]["detail"]
    assert kept(cloud, "manual") == [name]
    add(cloud)
    deploy("v2", reads=(1, 2), writes=2, convert=("2",))
    with_v2 = table(cloud)
    volume(cloud, "restore", "rows", name, "--yes")
    assert table(cloud) == ["1 1", "2 1", "3 1"]
    volume(cloud, "undo", "rows", "--yes")
    assert table(cloud) == with_v2
    volume(cloud, "restore", "rows", name, "--to", "2", "--yes")
    assert table(cloud) == ["1 1", "2 1", "3 1", "4 convert"], "release 2 reads what release 1 wrote, and converts it"


def test_names_differences_and_sizes_are_shown(cloud):
    (name,) = kept(cloud, "manual")
    found = volume(cloud, "files", f"rows/data:{name}")
    assert ([one["path"] for one in found["files"]], found["complete"]) == (["format", "rows"], True)
    changes = {one["path"]: one for one in volume(cloud, "diff", "rows", name)["changes"]}
    assert changes["rows"]["kind"] == "changed"
    assert changes["rows"]["before"] < changes["rows"]["after"], "release 2 has converted, and added a row"
    (one,) = volume(cloud, "usage", "rows")["volumes"]
    assert (one["name"], one["quota"]) == ("data", 64 << 20)
    assert b"64 MiB" in cloud.nebh("volume", "usage").stdout
    assert "no snapshot none" in volume(cloud, "files", "rows:none", accept=ANY)


def test_another_service_begins_with_the_data(cloud, deploy):
    (name, *_) = kept(cloud, "manual")
    before = table(cloud)
    assert "that is the same service" in volume(cloud, "clone", "rows", name, "--to", "rows", accept=ANY)
    done = volume(cloud, "clone", "rows", name, "--to", "copy")
    assert done["receipts"][0]["outcome"] == "done", done
    deploy("v3", name="copy", host=COPY)
    assert table(cloud, COPY) == ["1 1", "2 1", "3 1"]
    add(cloud, COPY)
    assert (table(cloud), len(table(cloud, COPY))) == (before, 4), "each has its own"
    assert "it has data of its own" in volume(cloud, "clone", "rows", name, "--to", "copy", accept=ANY)


def test_a_snapshot_is_deleted_but_never_the_last_good_one(cloud, deploy):
    (name, *_) = kept(cloud, "manual")
    assert "nobody agreed" in volume(cloud, "delete-snapshot", "rows", name, accept=ANY)
    volume(cloud, "delete-snapshot", "rows", name, "--yes")
    assert kept(cloud, "manual") == []
    newest = kept(cloud, "release")[-1]
    assert "it is the last good one of data" in volume(cloud, "delete-snapshot", "rows", newest, "--yes", accept=ANY)
    volume(cloud, "delete-snapshot", "rows", newest, "--yes", "--force")
    assert newest not in kept(cloud, "release")
