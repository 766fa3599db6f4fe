"""Secrets through the executor on drivers in memory: what reaches a container, what is refused, what a rotation does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nebh.executor.secrets import open_for_node, open_secrets
from nebh.host.files import write_atomic
from nebh.model.backup import BackupRule
from nebh.model.errors import Refused, Unreachable
from nebh.model.secret import Box, SealedFor, SecretList, SecretUse, rotation_nonce
from nebh.model.statement import Outcome
from nebh.model.volume import VolumeBound, VolumeClass
from nebh.signing.node_keys import ensure_node_keys
from nebh.signing.seal import box_of, public_of, seal
from nebh.wire import codec

pytestmark = pytest.mark.slow

CLUSTER, NODE = "c" * 32, "d" * 64
DB = SecretUse(name="db", path="/run/secrets/db", signal="HUP")
KEY = SecretUse(name="key", path="/run/secrets/key")


class Sealed:
    """What an operator seals to the one node of a bench, and a controller serves."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.seal_pk = ensure_node_keys(bench.context.layout.node_key.parent).seal_pk

    def put(self, name: str, value: bytes, version: int, *, serve: bool = True, **sealed: Any) -> SecretList:
        """List a value; sealed: what it is sealed for instead, `public` among it."""
        public = sealed.pop("public", self.seal_pk)
        fields = {
            "cluster_id": CLUSTER,
            "recipient": NODE,
            "service": "web",
            "name": name,
            "version": version,
            **sealed,
        }
        box = seal(value, public=public, to=SealedFor(**fields))
        if serve:
            self.bench.agent.bytes[box_of(box).digest] = box
        return self.list(name, version, {NODE: box_of(box)})

    def list(self, name: str, version: int, boxes: dict[str, Box], **fields: Any) -> SecretList:
        made = SecretList(
            cluster_id=CLUSTER, service="web", name=name, version=version, signed_at=1, boxes=boxes, **fields
        )
        self.bench.context.database.write(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", f"secret/web/{name}", version, codec.encode(made)
        )
        return made

    def rotate(self, name: str, value: bytes, version: int, **options: Any) -> SecretList:
        made = self.put(name, value, version, **options)
        self.bench.executor.secrets.follow()
        return made

    def files(self) -> dict[str, bytes]:
        (row,) = self.bench.serving()
        found: dict[str, bytes] = self.bench.containers.secrets_of(row.id)
        return found

    def outcomes(self, listed: SecretList) -> list[Outcome]:
        found: list[Outcome] = self.bench.outcomes(rotation_nonce(listed))
        return found

    def signals(self) -> int:
        return len([1 for verb, _ in self.bench.containers.calls if verb == "signal"])


@pytest.fixture
def sealed(new_bench: Callable[..., Any]) -> Sealed:
    return Sealed(new_bench(secrets=("db", "key")))


@pytest.fixture
def running(sealed: Sealed) -> Sealed:
    sealed.put("db", b"first", 1)
    sealed.put("key", b"\x00\xff", 4)
    sealed.bench.deploy(1, secrets=(DB, KEY))
    return sealed


def refusal(sealed: Sealed, counter: int) -> tuple[str, str]:
    """Deploy what cannot be had; return the receipt's rule and text."""
    bench = sealed.bench
    bench.add_release(counter, secrets=(DB,))
    nonce = bench.assign(counter)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.REFUSED, bench.events()
    last = [one for one in bench.receipts if one.nonce == nonce][-1]
    return last.rule, last.detail


def test_values_reach_the_container_and_nothing_else(running: Sealed) -> None:
    assert running.files() == {"0/db": b"first", "0/key": b"\x00\xff"}
    (row,) = running.bench.serving()
    assert running.bench.accepted.secrets.given()[row.id].startswith("db=1:")
    text = "\n".join(running.bench.events())
    assert "first" not in text
    journal = running.bench.context.layout.journal
    running.bench.context.database.checkpoint()
    assert b"first" not in journal.read_bytes() + journal.with_name(journal.name + "-wal").read_bytes()


def test_a_rotation_replaces_files_signals_and_is_receipted_without_a_release(running: Sealed) -> None:
    (before,) = running.bench.serving()
    listed = running.rotate("db", b"second", 2)
    assert running.files() == {"0/db": b"second", "0/key": b"\x00\xff"}
    assert running.bench.serving() == (before,)
    assert running.outcomes(listed) == [Outcome.ROTATED]
    assert running.signals() == 1
    running.bench.executor.secrets.follow()
    assert running.outcomes(listed) == [Outcome.ROTATED], "once"
    listed = running.rotate("key", b"new key", 5)
    assert running.outcomes(listed) == [Outcome.ROTATED]
    assert running.signals() == 1, "key names no signal"


def test_a_new_release_and_a_restart_get_the_newest(running: Sealed) -> None:
    running.put("db", b"second", 2)
    running.bench.deploy(2, secrets=(DB, KEY))
    assert running.files()["0/db"] == b"second"
    running.bench.restart(reboot=True)
    running.bench.until(lambda: bool(running.bench.containers.list()))
    running.bench.settle()
    assert running.files() == {"0/db": b"second", "0/key": b"\x00\xff"}


def test_a_restart_needs_no_network(running: Sealed) -> None:
    running.bench.agent.bytes.clear()
    running.bench.restart(reboot=True)
    running.bench.until(lambda: bool(running.bench.containers.list()))
    assert running.files()["0/db"] == b"first"


WRONG: dict[str, dict[str, Any]] = {
    "another node": {"recipient": "e" * 64},
    "another service": {"service": "shop"},
    "another name": {"name_": "key"},
    "another version": {"version_": 9},
    "another cluster": {"cluster_id": "e" * 32},
    "another key": {"public": public_of(b"x" * 32)},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_box_for_something_else_is_one_refusal_and_what_runs_runs_on(sealed: Sealed, wrong: dict[str, Any]) -> None:
    sealed.put("db", b"first", 1)
    sealed.bench.deploy(1, secrets=(DB,))
    (before,) = sealed.bench.serving()
    to = {"cluster_id": CLUSTER, "recipient": NODE, "service": "web", "name": "db", "version": 2}
    to |= {key.rstrip("_"): value for key, value in wrong.items() if key != "public"}
    box = seal(b"stolen", public=wrong.get("public", sealed.seal_pk), to=SealedFor(**to))
    sealed.bench.agent.bytes[box_of(box).digest] = box
    listed = sealed.list("db", 2, {NODE: box_of(box)})
    rule, said = refusal(sealed, 2)
    assert (rule, "not sealed to this node's key" in said) == ("N11", True)
    sealed.bench.executor.secrets.follow()
    assert sealed.outcomes(listed) == [Outcome.REFUSED]
    assert sealed.bench.serving() == (before,)
    assert sealed.files() == {"0/db": b"first"}
    right = sealed.rotate("db", b"second", 3)
    assert sealed.outcomes(right) == [Outcome.ROTATED], "the control"
    assert sealed.files() == {"0/db": b"second"}


def test_other_bytes_than_were_signed(sealed: Sealed) -> None:
    listed = sealed.put("db", b"first", 1, serve=False)
    sealed.bench.agent.bytes[listed.boxes[NODE].digest] = seal(
        b"faked",
        public=sealed.seal_pk,
        to=SealedFor(cluster_id=CLUSTER, recipient=NODE, service="web", name="db", version=1),
    )
    rule, said = refusal(sealed, 1)
    assert (rule, "not the one that was signed" in said) == ("N11", True)
    sealed.bench.agent.bytes[listed.boxes[NODE].digest] = b"x" * 5000
    assert refusal(sealed, 2)[0] == "N11"


def test_no_box_for_this_node(sealed: Sealed) -> None:
    sealed.list("db", 1, {"e" * 64: Box(digest="a" * 64, bytes=60)})
    rule, said = refusal(sealed, 1)
    assert (rule, "not sealed to this node" in said) == ("N11", True)


def test_a_list_that_names_a_monstrous_box(sealed: Sealed) -> None:
    sealed.list("db", 1, {NODE: Box(digest="a" * 64, bytes=1 << 40)})
    assert refusal(sealed, 1)[0] == "N11"


def test_what_cannot_be_fetched_fails_a_first_deploy_and_is_tried_again_for_what_runs(sealed: Sealed) -> None:
    sealed.put("db", b"first", 1, serve=False)
    sealed.bench.add_release(1, secrets=(DB,))
    nonce = sealed.bench.assign(1)
    sealed.bench.settle()
    assert sealed.bench.outcome(nonce) is Outcome.FAILED
    sealed.put("db", b"first", 1)
    sealed.bench.deploy(2, secrets=(DB,))
    listed = sealed.put("db", b"second", 2, serve=False)
    sealed.bench.executor.secrets.follow()
    assert sealed.outcomes(listed) == []
    assert any("secret.unreachable" in one for one in sealed.bench.events())
    sealed.bench.deploy(3, secrets=(DB,))
    assert sealed.files() == {"0/db": b"first"}, "going on must not need a network"
    assert any("secret.stale" in one for one in sealed.bench.events())


def test_an_agent_that_is_away(running: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = running.put("db", b"second", 2)

    def away(items: object, take: object) -> None:
        raise Unreachable("nobody answers")

    monkeypatch.setattr(running.bench.agent, "objects", away)
    monkeypatch.setattr("nebh.executor.secrets.FIRST_DELAY", 0.05)
    running.bench.executor.secrets._delay = 0.05
    running.bench.executor.secrets.follow()
    assert running.files()["0/db"] == b"first"
    monkeypatch.undo()
    running.bench.until(lambda: running.outcomes(listed) == [Outcome.ROTATED])
    assert running.files()["0/db"] == b"second", "it was tried again by itself"


def test_a_rotation_cut_short_is_finished_by_the_next_executor(running: Sealed) -> None:
    """The box is held, the files are not replaced yet: as after a kill between the two."""
    listed = running.put("db", b"second", 2)
    box = running.bench.agent.bytes[listed.boxes[NODE].digest]
    running.bench.context.database.write("INSERT OR REPLACE INTO documents VALUES ('box/web/db', 2, ?)", box)
    running.bench.restart()
    running.bench.until(lambda: running.outcomes(listed) == [Outcome.ROTATED])
    assert running.files()["0/db"] == b"second"


def test_a_node_whose_key_was_replaced_says_so(running: Sealed) -> None:
    write_atomic(running.bench.context.layout.seal_key, b"ab" * 32 + b"\n", mode=0o600)
    release = running.bench.accepted.release("web", 1, 1)
    with pytest.raises(Exception, match="does not open with this node's key") as caught:
        open_secrets(running.bench.context, release)
    assert caught.value.rule == "N11"  # type: ignore[attr-defined]


def test_a_variable_holds_text_only(sealed: Sealed) -> None:
    sealed.put("db", b"first", 1)
    sealed.put("key", b"\xff", 1)
    fine = SecretUse(name="db", path="/run/secrets/db", env="DB")
    release = sealed.bench.add_release(1, secrets=(fine,))
    sealed.bench.assign(1)
    sealed.bench.settle()
    assert open_secrets(sealed.bench.context, release).env == {"DB": "first"}
    assert "first" not in repr(open_secrets(sealed.bench.context, release))
    sealed.bench.add_release(2, secrets=(SecretUse(name="key", path="/run/secrets/key", env="KEY"),))
    nonce = sealed.bench.assign(2)
    sealed.bench.settle()
    assert sealed.bench.outcome(nonce) is Outcome.REFUSED


def test_a_removed_service_leaves_no_box(running: Sealed) -> None:
    assert running.bench.accepted.secrets.held("web/db") is not None
    running.bench.accepted.forget_policy("web")
    assert running.bench.accepted.secrets.held("web/db") is None


def test_instances_that_are_gone_are_forgotten(running: Sealed) -> None:
    running.bench.deploy(2, secrets=(DB, KEY))
    running.bench.executor.secrets.follow()
    (row,) = running.bench.serving()
    assert set(running.bench.accepted.secrets.given()) == {row.id}


def test_what_the_node_alone_opens_reaches_no_container(new_bench: Callable[..., Any]) -> None:
    rule = BackupRule(to="/srv/backups", password="pw", every=300 * 86_400_000)
    volumes = (VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20),)
    sealed = Sealed(new_bench(secrets=("db", "pw"), backup=rule, volumes=volumes))
    bench = sealed.bench
    sealed.put("db", b"first", 1)
    rule_, detail = refusal(sealed, 1)
    assert (rule_, "web/pw" in detail) == ("N11", True), "a deploy without it is refused at once"
    sealed.put("pw", b"of the store", 1)
    bench.deploy(2, secrets=(DB,))
    assert sealed.files() == {"0/db": b"first"}
    bench.agent.bytes.clear()
    assert open_for_node(bench.context, "web", ("pw",)) == {"pw": b"of the store"}, "nobody has to be asked again"
    newer = sealed.rotate("pw", b"another", 2)
    assert sealed.outcomes(newer) == [Outcome.ROTATED]
    assert sealed.signals() == 0
    assert open_for_node(bench.context, "web", ("pw",)) == {"pw": b"another"}
    with pytest.raises(Refused, match="cannot open the secret web/none"):
        open_for_node(bench.context, "web", ("none",))
