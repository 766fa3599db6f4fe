"""Files from layers on a whole cloud: rendered on the node, changed by a layer, back with a rollback."""

from __future__ import annotations

import pytest

from nebh.testing.tiny_service import HOST, write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]

FILES = """files:
  - path: /www/word.txt
    text: "{{ word }} on {{ nebh.node }}\\n"
config:
  schema: {word: {type: text, default: one}}
"""


def word(cloud) -> str:
    status, body = cloud.get("/word.txt", host=HOST)[:2]
    assert status == 200, body
    return (body if isinstance(body, str) else body.decode()).split()[0]


def test_a_layer_changes_a_file_and_a_rollback_brings_it_back(cloud, disk_folder):
    (disk_folder / "tiny").mkdir()
    spec = write_service(disk_folder / "tiny", more=FILES)
    cloud.nebh("deploy", str(spec))
    assert word(cloud) == "one"
    (before,) = cloud.serving("web")
    done = cloud.nebh_json("config", "set", "cluster", "word=two")
    assert [(one["service"], one["release"]) for one in done["releases"]] == [("web", 2)]
    assert word(cloud) == "two"
    (after,) = cloud.serving("web")
    assert after["id"] != before["id"]
    found = cloud.nebh_json("config", "explain", "web", "--file", "/www/word.txt")
    assert [one["values"][0]["layer"] for one in found["lines"]] == ["cluster"]
    cloud.nebh("rollback", "web")
    assert word(cloud) == "one"
    # what cannot be rendered is never signed
    assert cloud.nebh_json("config", "history", "cluster")["layers"][0]["version"] == 1


def test_a_file_changes_under_the_instance_and_a_rollback_brings_it_back(cloud, disk_folder):
    (disk_folder / "tiny").mkdir(exist_ok=True)
    more = FILES.replace("text: ", "on_change: reload\n    signal: USR1\n    text: ").replace("word }}", "other }}")
    spec = write_service(disk_folder / "tiny", page="tiny live", more=more.replace("{word:", "{other:"))
    cloud.nebh("deploy", str(spec))
    (before,) = cloud.serving("web")
    done = cloud.nebh_json("config", "set", "cluster", "other=three")
    assert [one["on_change"] for one in done["releases"][0]["files"]] == ["reload"]
    assert word(cloud) == "three"
    cloud.nebh("rollback", "web")
    assert word(cloud) == "one"
    (after,) = cloud.serving("web")
    assert (after["id"], after["pid"]) == (before["id"], before["pid"]), "one instance through all of it"
    # made anew, it has the files of its release
    cloud.nebh("restart", "web")
    assert word(cloud) == "one"
