"""Keys and signatures through a running controller: words bring a lost key back, services never notice."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from nebh.client.api_client import Client, Login
from nebh.client.transport import UnixTransport
from nebh.model.api import Who
from nebh.model.errors import NebhError
from nebh.signing.keys import generate_key

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def deployed(founded):
    from nebh.cli.main import main

    assert main(["deploy", founded.spec("v1", name="vault"), "--quiet"]) == 0
    return founded


def key_path(rig) -> Path:
    (folder,) = (rig.folder / "config").iterdir()
    return folder / json.loads((folder / "cluster.json").read_text())["key"]


@pytest.mark.usefixtures("deployed")
class TestKeys:
    def test_01_a_lost_key_comes_back_by_the_words(self, rig):
        old = key_path(rig)
        lost = old.read_bytes()
        old.unlink()
        status, _, err = rig.run("status")
        assert (status, "`nebh key recover`" in err) == (7, True)
        status, _, err = rig.run("key", "recover", "--words-file", rig.words)
        assert (status, "widens: key of targets" in err) == (2, True)
        assert [path.name for path in old.parent.glob("*.key")] == []
        out = rig.good("key", "recover", "--words-file", rig.words, "--yes-widen")
        assert "is the one operator key now" in out
        assert rig.data("status", "vault")["allocations"][0]["running"]["counter"] == 1
        rig.good("deploy", rig.spec("v2", name="vault"))
        assert [type(one).__name__ for one in rig.node.took] == ["Assignment"]
        # The old key is refused, on this very computer.
        kept = json.loads((old.parent / "cluster.json").read_text())
        old.write_bytes(lost)
        old.chmod(0o600)
        (old.parent / "cluster.json").write_text(
            json.dumps({**kept, "key": old.name}, separators=(",", ":"), sort_keys=True)
        )
        status, _, err = rig.run("stop", "vault")
        assert status == 3
        assert "is no operator's" in err
        (old.parent / "cluster.json").write_text(json.dumps(kept, separators=(",", ":"), sort_keys=True))
        rig.good("status")

    def test_02_other_words_are_refused(self, rig):
        wrong = rig.folder / "wrong"
        wrong.write_text("abandon " * 11 + "about")
        status, _, err = rig.run("key", "recover", "--words-file", str(wrong), "--yes-widen")
        assert status == 3, err
        wrong.write_text("abandon " * 11 + "nonsens")
        status, _, err = rig.run("key", "recover", "--words-file", str(wrong))
        assert (status, "word 12" in err) == (2, True)
        assert rig.run("key", "recover", "--words-file", str(rig.folder / "none"))[0] == 2

    def test_03_keys_are_listed_added_and_revoked(self, rig):
        other = generate_key()
        public = other.public
        rig.good("key", "add", public, "--words-file", rig.words, "--yes-widen")
        kinds = {one["key"]: one["kind"] for one in rig.data("key", "list")["keys"]}
        assert kinds[public] == "operator"
        assert sorted(kinds.values()) == ["controller", "operator", "operator", "recovery"]
        login = Login(kind=Who.OPERATOR, sign=lambda data: (public, other.sign_bytes(data)))
        with contextlib.closing(Client(UnixTransport(path=rig.socket), login=login)) as client:
            client.status()
            rig.good("key", "revoke", public[:16], "--words-file", rig.words, "--yes-widen")
            with pytest.raises(NebhError, match="no operator's"):  # a token ends with its key
                client.status()
        assert public not in rig.good("key", "list")
        assert rig.run("key", "revoke", public[:16], "--words-file", rig.words)[0] == 7
        assert rig.run("key", "add", "--words-file", rig.words)[0] == 2

    def test_04_a_ci_key_signs_for_one_service(self, rig):
        public = generate_key().public
        rig.good("key", "add", public, "--as", "ci:vault", "--yes-widen")
        assert "rel-vault" in rig.good("key", "list").split(public)[0].splitlines()[-1]
        (loss,) = rig.data("trust", "blast-radius", "ci:vault")["losses"]
        assert (loss["key"], loss["code_on"], loss["policies"]) == (public, ["vault"], [])
        assert loss["recover"][0] == f"nebh key revoke {loss['recover'][0].split()[3]} --since TIME"
        out = rig.good("key", "revoke", loss["recover"][0].split()[3])
        assert "signs no releases of vault any more" in out
        (loss,) = rig.data("trust", "blast-radius", public)["losses"]
        assert (loss["code_on"], loss["can"]) == ([], ["nothing: no role and no setting names this key"])
        assert rig.run("trust", "blast-radius", "ci:vault")[0] == 7
        assert rig.run("key", "add", public, "--as", "ci:none", "--yes-widen")[0] == 7
        assert rig.run("key", "add", public, "--as", "king")[0] == 2

    def test_05_a_key_is_rotated(self, rig, monkeypatch):
        (rig.folder / "pass").write_text("secret\n")
        monkeypatch.setenv("NEBH_PASSPHRASE_FILE", str(rig.folder / "pass"))
        before = key_path(rig)
        rig.good("key", "rotate", "--words-file", rig.words, "--passphrase", "--yes-widen")
        assert key_path(rig) != before
        rig.good("restart", "vault")
        (rig.folder / "pass").write_text("wrong\n")
        status, _, err = rig.run("status")
        assert (status, "wrong passphrase" in err) == (2, True)
        monkeypatch.delenv("NEBH_PASSPHRASE_FILE")
        status, _, err = rig.run("status")
        assert (status, "NEBH_PASSPHRASE_FILE" in err) == (2, True)
        (rig.folder / "pass").write_text("secret\n")
        monkeypatch.setenv("NEBH_PASSPHRASE_FILE", str(rig.folder / "pass"))
        rig.good("key", "recover", "--words-file", rig.words, "--yes-widen")

    def test_06_new_words_void_the_old(self, rig):
        new = str(rig.folder / "words2")
        rig.good("key", "rotate", "--recovery", "--words-file", rig.words, "--new-words-file", new, "--yes-widen")
        assert rig.run("key", "recover", "--words-file", rig.words, "--yes-widen")[0] == 3
        rig.good("key", "recover", "--words-file", new, "--yes-widen")
        Path(rig.words).write_text(Path(new).read_text())

    def test_07_words_alone_bring_the_cloud_to_another_computer(self, rig, monkeypatch):
        monkeypatch.setenv("NEBH_CONFIG", str(rig.folder / "elsewhere"))
        status, _, err = rig.run("status")
        assert (status, "no cloud is known here" in err) == (7, True)
        where = ("--name", "again", "--controller", f"unix:{rig.socket}")
        rig.good("key", "recover", "--words-file", rig.words, *where, "--yes-widen")
        assert rig.data("status")["name"] == "home"
        rig.good("restart", "vault")
        monkeypatch.setenv("NEBH_CONFIG", str(rig.folder / "config"))
        rig.good("key", "recover", "--words-file", rig.words, "--yes-widen")

    def test_08_trust_is_shown_renewed_and_carried(self, rig):
        shown = rig.data("trust", "show")
        assert {"root", "targets", "snapshot", "timestamp"} <= shown["roles"].keys()
        rig.good("trust", "renew")
        again = rig.data("trust", "show")
        assert again["roles"]["targets"]["version"] == shown["roles"]["targets"]["version"] + 1
        rig.good("trust", "renew", "--root", "--words-file", rig.words)
        assert rig.data("trust", "show")["roles"]["root"]["version"] == shown["roles"]["root"]["version"] + 1
        file = rig.folder / "floors.json"
        file.write_text(rig.good("trust", "show", "--json"))
        rig.good("trust", "floors", "--from", str(file))
        file.write_text(json.dumps({"roles": {"targets": {"version": 999, "digest": "0" * 64}}}))
        rig.good("trust", "floors", "--from", str(file))
        status, _, err = rig.run("restart", "vault")
        assert (status, "this computer saw 999 already" in err) == (3, True)
        file.write_text("{}")
        assert rig.run("trust", "floors", "--from", str(file))[0] == 2
        file.write_text(json.dumps(again))
        rig.good("trust", "floors", "--from", str(file))

    def test_09_a_second_cloud_is_not_founded_over_one(self, rig):
        status, _, err = rig.run(
            "init", "other", "--controller-key", rig.controller_key, "--controller", f"unix:{rig.socket}"
        )
        assert (status, "serves" in err) == (2, True)
        assert rig.run("init", "other", "--controller-key", "xx")[0] == 2
        assert not (rig.folder / "config" / "other").exists()

    def test_10_another_controller_key_is_let_in_and_taken_away(self, rig):
        public = generate_key().public
        (held,) = rig.data("trust", "blast-radius", "controller")["losses"]
        rig.good("key", "add", public, "--as", "controller", "--words-file", rig.words, "--yes-widen")
        both = rig.data("trust", "blast-radius", "controller")["losses"]
        assert {one["key"] for one in both} == {held["key"], public}
        rig.good("restart", "vault")
        rig.good("key", "revoke", public[:12], "--words-file", rig.words, "--yes-widen")
        assert rig.data("trust", "blast-radius", "controller")["losses"] == [held]
        rig.good("restart", "vault")
