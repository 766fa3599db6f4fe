"""A real PostgreSQL and its client: a release with data, one that converts it, broken ones; back with the data kept, back
with it restored."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from nebh.cli.images import read_declaration
from nebh.images.declared.lock import write_lock
from nebh.testing.built_images import builder_of, lock_of

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]
EXAMPLES = Path(__file__).parents[2] / "examples"
HOST = "notes.example.org"
ANY = tuple(range(256))


@pytest.fixture(scope="module")
def specs(cloud, disk_folder, shorten) -> dict[str, Path]:
    """The example's specs, its images locked and built; the fourth release is one whose check fails once it serves."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    shutil.copytree(EXAMPLES, disk_folder / "examples", dirs_exist_ok=True)
    builder = builder_of(cloud.folder / "cache")
    found = {}
    for name in ("database", "notes"):
        folder = disk_folder / "examples" / "data" / name
        declared = read_declaration(folder / "image.yaml")
        lock = lock_of(declared, builder)
        write_lock(folder / "image.lock", lock)
        builder.build(declared, lock)
        for spec in folder.glob("*.yaml"):
            if spec.name != "image.yaml":
                spec.write_text(shorten(spec.read_text()))
                found[spec.stem] = spec
    text = re.sub(r"(?ms)^hooks:.*?(?=^health:)", "", found["release-2"].read_text())
    check = "{name: never, exec: [/usr/bin/start-postgresql], interval: 300ms, failures: 1}"
    failing = re.sub(r"update: \{.*\}", f"update: {{bake: 20s, checks: [{check}]}}", text)
    found["release-4"] = found["release-2"].with_name("release-4.yaml")
    found["release-4"].write_text(failing.replace("{reads: [1, 2], writes: 2}", "{reads: [2], writes: 2}"))
    return found


@pytest.fixture(scope="module")
def deploy(cloud, specs):
    def act(name: str, *, accept: tuple[int, ...] = (0,), because: str = "") -> str:
        done = cloud.nebh("deploy", "--yes-widen", "--json", str(specs[name]), accept=accept, timeout=900.0)
        (receipt,) = json.loads(done.stdout)["receipts"]
        assert because in receipt["detail"], receipt
        return str(receipt["outcome"])

    return act


def add(cloud) -> str:
    status, body = cloud.get(host=HOST, method="POST")
    assert status == 200, body
    return body.strip()


def notes(cloud) -> list[str]:
    status, body = cloud.get(host=HOST)
    assert status == 200, body
    return [line.partition(" | ")[0] for line in body.splitlines()]


def columns(cloud) -> str:
    """What only the converted table can say, through its client."""
    return cloud.get(host=HOST)[1].splitlines()[0]


def test_the_whole_story(cloud, deploy, eventually):
    assert deploy("release-1") == "committed"
    assert deploy("service") == "committed"
    assert [add(cloud) for _ in range(3)] == ["1", "2", "3"]
    first = cloud.serving("db")

    assert deploy("release-2") == "committed", "the next release converts the table"
    assert (notes(cloud), columns(cloud)) == (["1", "2", "3"], "1 | Ada Lovelace | hello")
    add(cloud)
    assert cloud.serving("db") != first

    broken = deploy("release-3", accept=ANY, because="hook forget failed: it exited with code 1")
    assert broken == "rolled-back", "a conversion that breaks half-way"
    assert notes(cloud) == ["1", "2", "3", "4"], "it had deleted every note"

    failing = deploy("release-4", accept=ANY, because="check never")
    assert failing == "rolled-back", "one whose check fails once it serves"
    assert notes(cloud)[:4] == ["1", "2", "3", "4"]

    add(cloud)
    refused = cloud.nebh("rollback", "db", "--to", "1", "--json", accept=ANY)
    assert refused.status != 0
    assert b"the data has version 2" in refused.stdout + refused.stderr
    with_2 = notes(cloud)
    cloud.nebh("rollback", "db", "--to", "1", "--data", "restore", "--yes", timeout=600.0)
    assert eventually(lambda: notes(cloud)) == ["1", "2", "3"], "written before the table was converted"
    assert [one["counter"] for one in cloud.serving("db")] == [1]
    cloud.nebh("volume", "undo", "db", "--yes", timeout=600.0)
    assert eventually(lambda: notes(cloud)) == with_2
    cloud.power_cut()
    cloud.up()
    assert eventually(lambda: cloud.get(host=HOST)[0] == 200 and notes(cloud) == with_2)


def test_a_backup_brings_every_row_back(cloud, specs, deploy, disk_folder, eventually):
    if shutil.which("restic") is None:
        pytest.skip("restic is not installed (packaging/packages.sh runtime)")
    store = disk_folder / "store"
    store.mkdir(mode=0o700)
    rule = f"backup: {{to: {store}, password: backup-password, every: 300d}}\n"
    secret = "{name: backup-password, generate: 40 alnum}"
    text = specs["release-2"].read_text()
    specs["release-5"] = specs["release-2"].with_name("release-5.yaml")
    listed = re.sub(r"(?m)^secrets:\n", f"secrets:\n  - {secret}\n", text)
    specs["release-5"].write_text((listed if listed != text else f"{text}secrets: [{secret}]\n") + rule)
    assert deploy("release-5") == "committed"
    add(cloud)
    before = cloud.get(host=HOST)[1]
    cloud.nebh("backup", "run", "db", timeout=600.0)
    assert cloud.get(host=HOST)[1] == before, "the server went on"
    add(cloud)
    add(cloud)
    assert len(notes(cloud)) == len(before.splitlines()) + 2
    cloud.nebh("backup", "verify", "db", timeout=600.0)
    cloud.nebh("backup", "restore", "db", "--yes", timeout=900.0)
    assert eventually(lambda: cloud.get(host=HOST)[1] == before), cloud.get(host=HOST)[1]
    add(cloud)
    assert notes(cloud)[-1] != "", "it can be written to"
