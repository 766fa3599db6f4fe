"""Looking: nothing changes, foreign text is harmless, start-up is lean."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nebh.cli import session as session_module
from nebh.cli.show import expiry_warnings
from nebh.client.api_client import Client
from nebh.model.errors import Conflict

pytestmark = pytest.mark.e2e

DAY = 86_400


@pytest.fixture(scope="module")
def deployed(founded):
    from nebh.cli.main import main

    assert main(["deploy", founded.spec("v1", name="shop"), "--quiet"]) == 0
    return founded


@pytest.mark.usefixtures("deployed")
class TestShow:
    def test_status_events_history_and_versions(self, rig):
        out = rig.good("status")
        assert "home: snapshot" in out
        assert [line.split() for line in out.splitlines() if line.startswith(("one", "shop"))] == [
            ["one", "active", "now", "1"],
            ["shop", "running", "1", "1/1", "one", "-"],
        ]
        assert rig.data("status")["services"][0]["service"] == "shop"
        out = rig.good("events", "--service", "shop")
        assert "one: shop: committed \\x1b[2J" in out
        assert rig.data("events")["events"][-1]["service"] == "shop"
        assert "deployed" in rig.good("history", "shop")
        assert rig.data("history")["entries"][0]["what"] == "deployed"
        assert rig.data("version")["nodes"] == {"one": "0.1.0"}

    def test_logs_are_harmless_unless_raw(self, rig):
        assert rig.good("logs", "shop") == "t web-1-0-1 hello \\x1b[31m\n"
        assert rig.good("logs", "shop", "--raw") == "hello \x1b[31m\n"
        assert json.loads(rig.good("logs", "shop", "--json"))["text"] == "hello \x1b[31m"
        assert rig.run("logs", "nope")[0] == 7

    def test_inspect_and_why_of_what_is_well(self, rig):
        found = rig.data("inspect", "shop")
        assert found["policy"]["service"] == "shop"
        assert [one["outcome"] for one in found["receipts"]] == ["committed"]
        assert "policy:" in rig.good("inspect", "shop")
        assert "nothing is wrong with shop" in rig.good("why", "shop")

    def test_two_operators_at_once_look_again(self, rig, monkeypatch):
        """The first publication meets a Conflict: it is read, signed and shown again on what stands then."""
        real, calls = Client.publish, []

        def publish(self, **parts):
            calls.append(parts)
            if len(calls) == 1:
                raise Conflict("somebody was first")
            return real(self, **parts)

        monkeypatch.setattr(Client, "publish", publish)
        out = rig.run("unpin", "shop", "1")
        assert (out[0], len(calls)) == (0, 0)  # nothing to change, nothing to publish
        status, _, err = rig.run("stop", "shop")
        assert (status, len(calls)) == (0, 2)
        assert "somebody else published meanwhile" in err
        calls.clear()
        monkeypatch.setattr(session_module, "PUBLISH_ATTEMPTS", 1)
        status, _, err = rig.run("start", "shop")
        assert (status, "somebody was first" in err) == (6, True)
        rig.good("start", "shop")

    def test_an_unreachable_controller_is_named(self, rig):
        (folder,) = (rig.folder / "config").iterdir()
        kept = (folder / "cluster.json").read_text()
        (folder / "cluster.json").write_text(kept.replace("controller.sock", "nowhere.sock"))
        try:
            status, out, err = rig.run("status", "--json")
        finally:
            (folder / "cluster.json").write_text(kept)
        assert status == 5
        assert "cannot reach the controller at" in json.loads(out)["error"]
        assert "nowhere.sock" in err

    def test_status_starts_without_what_it_does_not_need(self, rig):
        code = (
            "import sys; from nebh.cli.main import main; status = main(['status', '--quiet']);"
            "heavy = {'tuf', 'securesystemslib', 'yaml', 'sqlalchemy', 'litestar', 'zstandard', 'nebh.images'};"
            "print(sorted(heavy & sys.modules.keys())); sys.exit(status)"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, timeout=60, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
        assert rig.node is not None

    def test_following_ends_quietly_on_ctrl_c(self, rig, press_ctrl_c):
        press_ctrl_c(1.0)
        status, out, err = rig.run("events", "--follow")
        assert (status, err) == (0, "")
        assert out


def test_expiry_is_said_30_days_ahead():
    now = 1_700_000_000
    ends = {"targets": now + 29 * DAY, "root": now + 31 * DAY, "timestamp": now + 2 * DAY, "rel-web": now - DAY}
    lines = expiry_warnings(ends, now=now)
    assert [line.split()[2] for line in lines] == ["rel-web", "targets"]
    assert "expired on 2023-11-13" in lines[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell, capsys):
    from nebh.cli.main import main

    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("rollback", "recover", "--yes-widen", "import"):
        assert word.removeprefix("--") in script
    if shell == "bash":
        asked = f"{script}\nCOMP_WORDS=(nebh key re); COMP_CWORD=2; _nebh; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", asked], capture_output=True, timeout=20, text=True, check=True)
        assert set(done.stdout.split()) == {"revoke", "recover"}


def test_images_and_specs_without_a_cloud(tmp_path, capsys, monkeypatch):
    from nebh.cli.main import main

    monkeypatch.setenv("NEBH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "sh").write_text("x")
    (root / "bin" / "sh").chmod(0o755)
    for path in (tmp_path, root, root / "bin"):
        path.chmod(0o755)
    assert main(["image", "import", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["files"] >= 1, found["bytes"], found["lint"][0]["rule"]) == (True, 1, "shell")
    assert main(["image", "lint", found["digest"]]) == 8
    assert "shell: /bin/sh" in capsys.readouterr().out
    assert main(["image", "inspect", f"dir:{root}"]) == 0
    assert "/bin/sh" in capsys.readouterr().out
    assert main(["image", "import", str(tmp_path / "none")]) == 2
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 0)[0])["title"] == "Nebh service spec"
    (tmp_path / "bad.yaml").write_text("name: shop\nnonsense: 1\n")
    assert main(["spec", "check", str(tmp_path / "bad.yaml"), "--json"]) == 2
    assert {one["line"] for one in json.loads(capsys.readouterr().out)["problems"]} >= {2}
    assert main(["image"]) == 2


def test_every_module_adds_the_commands_it_is_named_with():
    import argparse
    import importlib

    from nebh.cli.main import common_options
    from nebh.cli.registry import COMMAND_MODULES

    for name, commands in COMMAND_MODULES.items():
        subparsers = argparse.ArgumentParser().add_subparsers()
        importlib.import_module(f"nebh.cli.{name}_options").register(subparsers, common_options())
        assert tuple(subparsers.choices) == commands
