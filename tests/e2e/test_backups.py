"""Backups of a service with data by a real restic: made while it writes, restored, refused when they are not what was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nebh.model.errors import NotFound
from nebh.testing.row_service import HOST, Rows, write_rows

pytestmark = [
    pytest.mark.root,
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("restic") is None, reason="restic is not installed (packaging/packages.sh runtime)"
    ),
]
ANY = tuple(range(256))


@pytest.fixture(scope="module")
def store(disk_folder) -> Path:
    made = disk_folder / "store"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture(scope="module")
def deployed(cloud, disk_folder, store):
    try:
        spec = write_rows(disk_folder, Rows(version="v1", backup=f"to: {store}, every: 300d"))
    except NotFound as error:
        pytest.skip(str(error))
    return cloud.nebh("deploy", "--yes-widen", "--json", str(spec))


def add(cloud) -> None:
    assert cloud.get("/row", host=HOST, method="POST")[0] == 200


def table(cloud) -> list[str]:
    status, body = cloud.get("/rows", host=HOST)
    assert status == 200
    return body.splitlines()


def listed(cloud, *words: str) -> list[dict]:
    return json.loads(cloud.nebh("backup", "list", "rows", *words, "--json").stdout)["backups"]


def said(done) -> str:
    return (done.stdout + done.stderr).decode()


def test_a_backup_is_made_listed_verified_and_restored(cloud, deployed, store, eventually):
    add(cloud)
    add(cloud)
    done = cloud.nebh("backup", "run", "rows")
    assert "backup" in said(done)
    (made,) = eventually(lambda: listed(cloud))
    assert (made["volume"], made["counter"], made["version"], made["listed"]) == ("data", 1, 1, False)
    packs = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"2 1" not in packs, "it is encrypted"
    assert "1 1" in "\n".join(table(cloud))
    cloud.nebh("backup", "verify", "rows")
    before = table(cloud)
    add(cloud)
    with_third = table(cloud)
    done = json.loads(cloud.nebh("backup", "restore", "rows", "--yes", "--json").stdout)
    assert done["ok"], done
    assert table(cloud) == before
    cloud.nebh("volume", "undo", "rows", "--yes")
    assert table(cloud) == with_third


@pytest.mark.long
def test_an_archive_that_was_exchanged_is_refused_and_a_damaged_store_is_said(cloud, deployed, store, eventually):
    cloud.nebh("backup", "run", "rows")
    old, new = eventually(lambda: len(found := listed(cloud)) == 2 and found)
    before = table(cloud)
    (part,) = store.glob("rows/*/snapshots")
    kept = (part / new["id"]).read_bytes()
    (part / new["id"]).chmod(0o600)
    (part / new["id"]).write_bytes((part / old["id"]).read_bytes())
    shutil.rmtree(cloud.layout.executor / "backups")  # else restic has the true one still, and uses it
    done = cloud.nebh("backup", "restore", "rows", "--yes", "--json", accept=ANY)
    assert done.status != 0, said(done)
    events = json.loads(cloud.nebh("events", "--service", "rows", "--json").stdout)["events"]
    assert "backup.refused" in {one["kind"] for one in events if one["severity"] == "alarm"}
    assert table(cloud) == before
    (part / new["id"]).write_bytes(kept)
    done = cloud.nebh("backup", "restore", "rows", "--yes", "--json")  # the control: as it was, it comes back
    assert json.loads(done.stdout)["ok"]
    pack = max((path for path in part.parent.joinpath("data").rglob("*") if path.is_file()), key=_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    whole = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(data)
    done = cloud.nebh("backup", "verify", "rows", accept=ANY)
    assert done.status != 0
    assert "Traceback" not in said(done)
    pack.write_bytes(whole)
    cloud.nebh("backup", "verify", "rows")


@pytest.mark.long
def test_a_node_that_lost_its_journal_reads_the_store(cloud, deployed):
    found = listed(cloud, "--in-store")
    assert found
    assert {one["listed"] for one in found} == {False}, "what was written down is not replaced by what a store says"
    assert "there is no store of backups" in said(
        cloud.nebh("backup", "list", "rows", "--in-store", "--from", "nobody", accept=ANY)
    )


def test_a_store_that_is_not_there_is_one_clear_error(cloud, deployed, store):
    store.rename(store.with_name("away"))
    done = cloud.nebh("backup", "run", "rows", accept=ANY)
    assert done.status != 0
    assert f"there is no folder {store} on this node" in said(done)
    store.with_name("away").rename(store)


def _size(path: Path) -> int:
    return path.stat().st_size
