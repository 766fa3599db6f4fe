"""`nebh secret` against a real controller: what is typed, what is signed, what a node could open, what is never shown."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nebh.cli import secret_values
from nebh.client.api_client import Client
from nebh.client.transport import UnixTransport
from nebh.images.pack import decode_pack
from nebh.model.errors import BadInput
from nebh.model.node import Baseline, NodeRecord, NodeStatus
from nebh.model.secret import MAX_VALUE, SealedFor
from nebh.signing.keys import load_key
from nebh.signing.operator import ClusterFolder, load_cluster
from nebh.signing.seal import open_box, public_of
from nebh.signing.vault import VAULT

pytestmark = pytest.mark.e2e

USES = "secrets:\n  - name: db\n  - {name: made, generate: 24 hex, signal: HUP}\n"
CANARY = "kAnaRy-7f3e"


def give(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False, readline=lambda: "")
    monkeypatch.setattr(sys, "stdin", stdin)


def folder(rig) -> ClusterFolder:
    return load_cluster(rig.folder / "config")


def client(rig) -> Client:
    from nebh.client.api_client import Login
    from nebh.model import api

    key = load_key(Path(folder(rig).key))
    login = Login(kind=api.Who.OPERATOR, sign=lambda data: (key.public, key.sign_bytes(data)))
    return Client(UnixTransport(path=rig.socket), login=login)


def trusted(rig):
    return folder(rig).read(client(rig).fetch).trusted


def fetched(rig, digest: str) -> bytes:
    (data,) = [b"".join(one.chunks) for one in decode_pack(client(rig).download_objects((digest,)))]
    return data


def opened(rig, key: str) -> tuple[int, bytes]:
    """Return (version, value) as the stand-in node would open it."""
    service, _, name = key.partition("/")
    listed = trusted(rig).secrets[key]
    node = rig.node.record().node_id
    to = SealedFor(cluster_id=rig.node.cluster_id, recipient=node, service=service, name=name, version=listed.version)
    return listed.version, open_box(fetched(rig, listed.boxes[node].digest), private=rig.node.seal, to=to)


def test_01_a_spec_that_names_a_secret_without_a_value_is_told_before_anything_is_signed(rig):
    assert rig.data("plan", rig.spec("s1", name="vaulted", more=USES))["secrets_without_value"] == ["vaulted/db"]
    assert "no value yet: nebh secret set vaulted/db" in rig.good("plan", rig.spec("s1", name="vaulted", more=USES))
    status, _, err = rig.run("deploy", rig.spec("s1", name="vaulted", more=USES), "--yes-widen")
    assert status == 2
    assert "1 secrets have no value yet" in err
    assert "nebh secret set vaulted/db" in err
    assert "vaulted" not in trusted(rig).policies


def test_02_before_the_first_deploy_a_value_waits_in_the_vault(rig, monkeypatch):
    give(monkeypatch, CANARY + "\n")
    done = rig.data("secret", "set", "vaulted/db")
    assert done == {
        "secrets": [{"secret": "vaulted/db", "version": 1, "sealed": False, "receipts": [], "error": ""}],
        "ok": True,
    }
    assert CANARY.encode() not in (folder(rig).path / VAULT).read_bytes()
    (row,) = [one for one in rig.data("secret", "list")["secrets"] if one["secret"] == "vaulted/db"]
    assert (row["version"], row["vault"]) == (0, 1)


def test_03_the_deploy_seals_it_and_makes_what_is_to_be_made(rig):
    out = rig.good("deploy", rig.spec("s1", name="vaulted", more=USES), "--yes-widen")
    assert "committed" in out
    assert opened(rig, "vaulted/db") == (1, CANARY.encode()), "without the newline"
    version, made = opened(rig, "vaulted/made")
    assert (version, len(made)) == (1, 24)
    assert set(made) <= set(b"0123456789abcdef")
    listed = rig.data("secret", "list", "vaulted")["secrets"]
    assert [(one["secret"], one["readers"], one["lacking"]) for one in listed] == [
        ("vaulted/db", ["one"], []),
        ("vaulted/made", ["one"], []),
    ]


def test_04_a_second_deploy_seals_nothing_anew(rig):
    before = trusted(rig).secrets
    rig.good("deploy", rig.spec("s2", name="vaulted", more=USES), "--yes-widen")
    assert trusted(rig).secrets == before


def test_05_set_again_is_a_new_version_that_the_node_confirms(rig, monkeypatch):
    give(monkeypatch, "second")
    done = rig.data("secret", "set", "vaulted/db")
    assert done["secrets"][0]["version"] == 2
    assert [one["outcome"] for one in done["secrets"][0]["receipts"]] == ["rotated"]
    assert opened(rig, "vaulted/db") == (2, b"second")


def test_06_rotate_makes_by_the_rule_of_before_and_waits(rig):
    _, old = opened(rig, "vaulted/made")
    out = rig.good("secret", "rotate", "vaulted/made")
    assert "rotated on one" in out
    version, new = opened(rig, "vaulted/made")
    assert (version, len(new), new != old) == (2, 24, True)
    assert new.decode() not in out


def test_07_silence_is_unconfirmed_and_the_value_is_kept(rig, monkeypatch):
    rig.node.behaviour = "mute"
    give(monkeypatch, "third")
    status, _, err = rig.run("secret", "set", "vaulted/db", "--timeout", "1.5")
    assert status == 4
    assert "unconfirmed" in err
    assert opened(rig, "vaulted/db") == (3, b"third")


def test_08_sources(rig, monkeypatch, tmp_path):
    (tmp_path / "key.pem").write_bytes(b"line\nline\n")
    rig.good("secret", "set", "vaulted/db", "--file", str(tmp_path / "key.pem"), "--detach")
    assert opened(rig, "vaulted/db")[1] == b"line\nline\n", "byte for byte"
    rig.good("secret", "set", "vaulted/db", "--command", "printf 'from the manager\\n'", "--detach")
    assert opened(rig, "vaulted/db")[1] == b"from the manager"
    rig.good("secret", "set", "vaulted/db", "--command", "printf 'from the manager\\n'", "--raw", "--detach")
    assert opened(rig, "vaulted/db")[1] == b"from the manager\n"
    rig.good("secret", "set", "vaulted/db", "--generate", "12 digits", "--detach")
    assert opened(rig, "vaulted/db")[1].isdigit()
    editor = tmp_path / "ed"
    editor.write_text("#!/bin/sh\nstat -c '%a %n' \"$1\" > " + str(tmp_path / "seen") + '\nprintf edited > "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    rig.good("secret", "edit", "vaulted/db", "--detach")
    assert opened(rig, "vaulted/db")[1] == b"edited"
    mode, _, seen = (tmp_path / "seen").read_text().strip().partition(" ")
    assert mode == "600"
    assert not Path(seen).exists()
    version = opened(rig, "vaulted/db")[0]
    assert "stays as it was" in rig.good("secret", "edit", "vaulted/db", "--detach")
    assert opened(rig, "vaulted/db")[0] == version


def test_09_bad_input_is_one_message_and_shows_no_value(rig, monkeypatch, tmp_path):
    before = trusted(rig).secrets, (folder(rig).path / VAULT).read_bytes()
    cases = [
        (("secret", "set", f"vaulted/db={CANARY}"), b"", "every user of this computer can read it"),
        (("secret", "set", "vaulted"), b"x", "write SERVICE/NAME"),
        (("secret", "set", "vaulted/Db"), b"x", "name of a secret"),
        (("secret", "set", "vaulted/db"), b"", "the value is empty"),
        (("secret", "set", "vaulted/db"), CANARY.encode() * 9000, f"more than {MAX_VALUE} bytes"),
        (("secret", "set", "vaulted/db", "--command", f"sh -c 'echo {CANARY}-out; exit 3'"), b"", "it failed"),
        (("secret", "set", "vaulted/db", "--command", ""), b"", "the value is empty"),
        (("secret", "set", "vaulted/db", "--generate", "alnum"), b"", "a length and a kind"),
        (("secret", "set", "vaulted/db", "--file", str(tmp_path / "none")), b"", "cannot read a value"),
        (("secret", "rotate", "vaulted/nothing"), b"x", "has no value yet"),
        (("secret", "who", "vaulted/nothing"), b"", "cannot find the secret"),
    ]
    for argv, given, said in cases:
        give(monkeypatch, given)
        status, out, err = rig.run(*argv)
        assert status in (2, 7, 8), (argv, out, err)
        assert said in err, (argv, err)
        assert CANARY not in out + err.replace(f"echo {CANARY}-out", ""), argv
    assert before == (trusted(rig).secrets, (folder(rig).path / VAULT).read_bytes())


def test_10_import_of_env_and_json(rig, monkeypatch, tmp_path):
    file = tmp_path / "production.env"
    file.write_text(f"# comment\nexport DB='{CANARY}'\nMADE=\"quoted value\"\n")
    done = rig.data("secret", "import", "vaulted", str(file), "--detach")
    assert [one["secret"] for one in done["secrets"]] == ["vaulted/db", "vaulted/made"]
    assert opened(rig, "vaulted/db")[1] == CANARY.encode()
    assert opened(rig, "vaulted/made")[1] == b"quoted value"
    give(monkeypatch, json.dumps({"DB": "from json"}))
    rig.good("secret", "import", "vaulted", "-", "--detach")
    assert opened(rig, "vaulted/db")[1] == b"from json"
    file.write_text(f"DB={CANARY}\nnonsense {CANARY}\n1X=y\nE=\nDB=again\nQ='open\n")
    status, out, err = rig.run("secret", "import", "vaulted", str(file))
    assert status == 2
    for line in (":2:", ":3:", ":4:", ":5:", ":6:"):
        assert line in err, err
    assert CANARY not in out + err
    status, _, err = rig.run("secret", "import", str(file))
    assert (status, "--vault" in err) == (2, True)


def test_11_who_can_read_it(rig):
    found = rig.data("secret", "who", "vaulted/db")
    assert found["nodes"] == [{"node": "one", "groups": [], "box": True, "admitted": True}]
    assert sorted(one["kind"] for one in found["vault"]) == ["operator", "recovery or former"]
    assert "one" in rig.good("secret", "who", "vaulted/db")


def test_12_a_node_that_is_approved_is_sealed_to_and_one_that_is_revoked_loses_its_box(rig, capsys):
    from nebh.cli.output import Output
    from nebh.cli.session import Session
    from nebh.signing.wish import Wish

    private = os.urandom(32)
    record = NodeRecord(
        node_id="7" * 64,
        name="two",
        groups=("back",),
        sign_pk="7" * 64,
        seal_pk=public_of(private),
        wg_pk="",
        subnets=("10.8.0.0/20",),
        enrolled_at=1,
        baseline=Baseline(snapshot=1),
    )
    session = Session(SimpleNamespace(cloud="", at="", yes_widen=True), Output())
    session.publish(lambda _: Wish(nodes=(record,)))
    said = capsys.readouterr().err
    assert "sealed the secret vaulted/db" in said
    assert "to two" in said
    listed = trusted(rig).secrets["vaulted/db"]
    assert set(listed.boxes) == {rig.node.record().node_id, record.node_id}
    to = SealedFor(
        cluster_id=rig.node.cluster_id, recipient=record.node_id, service="vaulted", name="db", version=listed.version
    )
    assert open_box(fetched(rig, listed.boxes[record.node_id].digest), private=private, to=to) == b"from json"
    from dataclasses import replace

    session.publish(lambda _: Wish(nodes=(replace(record, status=NodeStatus.REVOKED),)))
    assert "nebh secret rotate vaulted/db" in capsys.readouterr().err
    assert set(trusted(rig).secrets["vaulted/db"].boxes) == {rig.node.record().node_id}


def test_13_the_words_open_the_vault_for_a_new_key_and_a_copy_comes_back(rig, tmp_path):
    path = folder(rig).path / VAULT
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    rig.good("key", "recover", "--words-file", rig.words, "--yes-widen")
    assert opened(rig, "vaulted/db")[1] == b"from json"
    rig.good("secret", "rotate", "vaulted/made", "--generate", "30 alnum", "--detach")
    path.unlink()
    lost = rig.data("secret", "list", "vaulted")["secrets"]
    assert {one["vault"] for one in lost} == {0}
    status, out, _ = rig.run("secret", "import", "--vault", str(copy))
    assert status == 0
    assert "was not sealed to your key" in out, "the copy is older than the key"
    path.unlink()
    rig.good("key", "recover", "--words-file", rig.words, "--vault", str(copy), "--yes-widen")
    have = {one["secret"]: one["vault"] for one in rig.data("secret", "list", "vaulted")["secrets"]}
    assert have["vaulted/db"] == trusted(rig).secrets["vaulted/db"].version


def test_14_boxes_stay_when_the_controller_collects_and_go_with_the_service(rig):
    digests = [box.digest for one in trusted(rig).secrets.values() for box in one.boxes.values()]
    client(rig).collect()
    assert client(rig).missing_objects(tuple(digests)) == ()
    rig.good("rm", "vaulted", "--yes")
    assert not [key for key in trusted(rig).secrets if key.startswith("vaulted/")]


def test_15_a_value_is_forgotten_here_alone(rig):
    assert [one["vault"] for one in rig.data("secret", "list", "vaulted")["secrets"]] != []
    rig.good("secret", "forget", "vaulted/db")
    assert "vaulted/db" not in [one["secret"] for one in rig.data("secret", "list")["secrets"]]
    assert rig.run("secret", "forget", "vaulted/db")[0] == 7


def test_16_a_value_typed_on_a_terminal_is_asked_twice(monkeypatch):
    answers = iter(["one", "two"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    options = SimpleNamespace(generate="", file="", command_line="", raw=False)
    with pytest.raises(BadInput, match="the two values differ"):
        secret_values.read_value(options, what="web/db")  # type: ignore[arg-type]
