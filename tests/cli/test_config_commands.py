"""Layers of configuration from the command line, against a running controller; nodes are stand-ins, files are real."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

CONF = """files:
  - path: /etc/app/app.conf
    template: app.conf.j2
  - {path: /etc/app/motd, text: "hello from {{ nebh.node }}"}
config:
  values: {app: {name: shop}}
  schema:
    app.name: text
    log.level: {type: text, enum: [debug, info, warning], default: info}
    workers: {type: int, low: 1}
"""
TEMPLATE = "# {{ app.name }}\n{% include 'log.j2' %}\n{% if workers is defined %}\nworkers {{ workers }}\n{% endif %}\n"


def spec(rig, version: str = "v1", more: str = CONF) -> str:
    (rig.folder / "app.conf.j2").write_text(TEMPLATE)
    (rig.folder / "log.j2").write_text("level {{ log.level }}\n")
    return rig.spec(version, name="shop", more=more)


def test_01_a_deploy_takes_files_along_and_plan_shows_them(rig):
    planned = rig.data("plan", spec(rig))
    assert [(one["path"], one["added"]) for one in planned["files"]] == [("/etc/app/app.conf", 2), ("/etc/app/motd", 1)]
    rig.good("deploy", spec(rig))
    assert "file /etc/app" not in rig.good("plan", spec(rig))
    found = rig.data("config", "explain", "shop", "--file", "/etc/app/app.conf")
    assert [(one["text"], one["template"], one["line"]) for one in found["lines"]] == [
        ("# shop", "app.conf.j2", 1),
        ("level info", "log.j2", 1),
    ]
    assert found["lines"][0]["values"] == [{"key": "app.name", "layer": "spec", "version": 0}]


def test_02_a_layer_makes_one_release_for_each_service_whose_files_change(rig):
    rig.good("deploy", rig.spec("v1", name="plain"))
    out = rig.good("config", "set", "cluster", "log.level=debug", "unused=1", "--plan")
    assert "cluster version 1 would be signed" in out
    assert "shop: release 2 would be signed" in out
    assert "-level info" in out
    assert "+level debug" in out
    assert "plain" not in out
    assert rig.data("config", "history") == {"layers": []}
    done = rig.data("config", "set", "cluster", "log.level=debug", "unused=1", "--note", "looking for a fault")
    assert [(one["service"], one["release"], one["base"]) for one in done["releases"]] == [("shop", 2, 1)]
    assert [one["receipts"][0]["outcome"] for one in done["rolled"]] == ["committed"]
    assert done["rolled"][0]["undo"] == "nebh rollback shop --to 1"
    assert rig.data("status", "shop")["allocations"][0]["running"]["counter"] == 2
    done = rig.data("config", "set", "cluster", "unused=2")
    assert (done["releases"], done["layers"]) == ([], [{"layer": "cluster", "version": 2}])
    assert "nothing was changed" in rig.good("config", "set", "cluster", "unused=2")


def test_03_explain_says_layer_version_and_what_was_overridden(rig):
    rig.good("config", "set", "node/one", "log.level=warning", "--no-release")
    text = rig.good("config", "explain", "shop", "log.level")
    assert "log.level = debug\n  from cluster version 1\n" in text
    rig.good("deploy", spec(rig))
    text = rig.good("config", "explain", "shop", "log.level")
    assert "log.level = warning\n  from node/one version 1\n  over debug from cluster version 2\n" in text
    earlier = rig.data("config", "explain", "shop", "log.level", "--release", "1")
    assert [(one["value"], one["layer"]) for one in earlier["values"]] == [("info", "default")]
    text = rig.good("config", "explain", "shop", "--file", "/etc/app/app.conf")
    assert "log.j2:1; log.level from node/one version 1" in text
    assert rig.run("config", "explain", "shop", "no.key")[0] == 7
    assert rig.run("config", "explain", "shop", "--node", "nowhere")[0] == 7
    assert rig.run("config", "explain", "shop", "--file", "/etc/x")[0] == 7


def test_04_a_bad_value_is_refused_before_anything_is_signed(rig):
    before = rig.data("config", "history", "cluster")["layers"]
    status, _, err = rig.run("config", "set", "cluster", "workers=none", "log.level=dbug")
    assert status == 2
    assert "workers: text `none` where a whole number is needed" in err
    status, _, err = rig.run("config", "set", "node/one", "log.level=dbug")
    assert "did you mean `debug`?" in err
    assert "layer node/one version 2" in err
    status, _, err = rig.run("config", "set", "service/shop", "app.nme=x")
    assert (status, "did you mean `app.name`?" in err) == (2, True)
    status, _, err = rig.run("config", "set", "service/shop", "app.name=other")
    assert status == 2
    assert "service/shop says other" in err
    assert "spec says shop" in err
    assert rig.run("config", "set", "nowhere/x", "a=1")[0] == 2
    assert rig.run("config", "set", "cluster", "a b=1")[0] == 2
    assert rig.run("config", "set", "cluster", "--merge", "sum", "a=1")[0] == 2
    assert rig.run("config", "set", "cluster")[0] == 2
    assert rig.data("config", "history", "cluster")["layers"] == before


def test_05_get_diff_history_and_unset(rig):
    assert rig.good("config", "get", "cluster", "unused") == "2\n"
    assert "level: debug" in rig.good("config", "get", "cluster", "--version", "1")
    assert rig.run("config", "get", "group/none")[0] == 7
    assert rig.run("config", "get", "cluster", "no")[0] == 7
    found = rig.data("config", "diff", "cluster")
    assert found["changes"] == [{"key": "unused", "old": 1, "new": 2}]
    assert "unused: 1 -> 2" in rig.good("config", "diff", "cluster", "--from", "1", "--to", "2")
    rows = rig.data("config", "history", "cluster")["layers"]
    assert [(one["version"], one["note"]) for one in rows] == [(2, ""), (1, "looking for a fault")]
    assert "looking for a fault" in rig.good("config", "history", "cluster")
    rig.good("config", "set", "node/one", "--unset", "log.level")
    assert rig.data("status", "shop")["allocations"][0]["running"]["counter"] == 4
    rig.good("config", "set", "node/one", "--delete", "log.level", "--no-release")
    assert rig.data("config", "get", "node/one")["merge"] == {"log.level": "delete"}
    rig.good("config", "set", "node/one", "log.level=debug", "--no-release")
    assert rig.data("config", "get", "node/one")["merge"] == {}


def test_06_the_last_20_versions_are_kept(rig):
    for number in range(22):
        rig.good("config", "set", "group/many", f"k={number}", "--no-release")
    kept = [one["version"] for one in rig.data("config", "history", "group/many")["layers"]]
    assert kept == list(range(22, 2, -1))
    status, _, err = rig.run("config", "get", "group/many", "--version", "1")
    assert (status, "kept are: 3, 4" in err) == (7, True)


def test_07_import(rig, tmp_path: Path):
    (tmp_path / "a.env").write_text("ONE=1\nTWO=b\n")
    rig.good("config", "import", str(tmp_path / "a.env"), "--into", "group/env")
    assert rig.data("config", "get", "group/env")["values"] == {"ONE": 1, "TWO": "b"}
    for place, text in {
        "group_vars/all.yml": "ntp: [a, b]\n",
        "group_vars/web_eu/main.yml": "x: {y: 1}\n",
        "host_vars/one.yml": "disk: ssd\n",
    }.items():
        (tmp_path / "ansible" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ansible" / place).write_text(text)
    planned = rig.data("config", "import", str(tmp_path / "ansible"), "--plan")
    assert {one["layer"] for one in planned["layers"]} == {"cluster", "group/web-eu", "node/one"}
    rig.good("config", "import", str(tmp_path / "ansible"))
    assert rig.data("config", "get", "cluster")["values"]["ntp"] == ["a", "b"]
    (tmp_path / "bad.json").write_text('{"a b": 1, "c": {"d e": 2}}')
    status, _, err = rig.run("config", "import", str(tmp_path / "bad.json"), "--into", "cluster")
    assert status == 2
    assert err.count("cannot be a key") == 2
    assert rig.run("config", "import", str(tmp_path / "a.env"))[0] == 2
    assert rig.run("config", "import", str(tmp_path / "none.env"), "--into", "cluster")[0] == 7


def test_08_edit(rig, monkeypatch, tmp_path: Path):
    script = tmp_path / "editor"
    script.write_text("#!/bin/sh\nsed -i 's/ONE: 1/ONE: 7/' \"$1\"\n")
    script.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(script))
    rig.good("config", "edit", "group/env", "--no-release")
    assert rig.data("config", "get", "group/env")["values"]["ONE"] == 7
    assert "nothing was changed" in rig.good("config", "edit", "group/env")
    script.write_text("#!/bin/sh\necho 'values: [1' > \"$1\"\n")
    status, _, err = rig.run("config", "edit", "group/env")
    assert (status, "it is not YAML" in err) == (2, True)


def test_09_a_broken_template_or_a_missing_value_stops_the_deploy(rig):
    before = rig.data("releases", "shop")
    file = spec(rig, "v2")
    (rig.folder / "log.j2").write_text("a\nlevel {{ log.levl }}\n")
    status, _, err = rig.run("deploy", file)
    assert status == 2
    assert "template log.j2:2" in err
    assert "`log.levl` is not defined" in err
    (rig.folder / "log.j2").write_text("{% include 'gone.j2' %}")
    assert rig.run("deploy", file)[0] == 7
    file = spec(rig, "v2", more=CONF.replace("path: /etc/app/app.conf", "path: /app/server/x"))
    status, _, err = rig.run("deploy", file)
    assert (status, "/app/server is a file of the image" in err) == (2, True)
    assert rig.data("releases", "shop") == before


def test_10_what_was_rolled_back_is_left_out_and_said(rig):
    rig.good("rollback", "shop", "--to", "2")
    done = rig.data("config", "set", "cluster", "workers=3")
    assert done["releases"] == []
    assert "its next deploy takes the layer" in done["left_out"]["shop"]
    rig.good("deploy", spec(rig))
    found = rig.data("config", "explain", "shop", "workers")
    assert found["values"][0]["value"] == 3
