"""A hacked controller serves what nobody signed, what is old, or what is another cluster's - to nodes and to the
command line. The rules one by one, each switched off, are in tests/planning/test_accept.py."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping

import pytest
from tuf.api._payload import Targets

from nebh.model.errors import NotFound
from nebh.model.policy import Policy
from nebh.model.statement import Outcome, Phase
from nebh.signing import roles
from nebh.signing.genesis import init_cluster
from nebh.signing.keys import generate_key
from nebh.signing.repository import Draft, State
from nebh.signing.trusted_set import release_path
from nebh.signing.wish import Wish
from nebh.testing.attacks import Attacker, Forgers, forge
from nebh.testing.middlemen import HostileController, Lie
from nebh.testing.tiny_service import write_service
from nebh.wire import codec

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]
STRANGER = generate_key()


def serve(files: Mapping[str, bytes]) -> Lie:
    return files.get


def metadata_of(attacker: Attacker, state: State) -> dict[str, bytes]:
    """Everything that agent and command line are given of a state, to be given again later."""
    names = {role: f"{version}.{role}.json" for role, version in state.trusted.versions.items()}
    names["timestamp"] = "timestamp.json"
    return {f"/v1/metadata/{name}": state.roles[role] for role, name in names.items()}


def node_refuses(attacker: Attacker, lie: Lie, counter: int, *, event: str = "metadata.refused") -> None:
    """The node, shown the lie and told to run `counter`, refuses."""
    with attacker.untouched(event=event):
        with HostileController(attacker.layout.controller_socket, lie) as middleman:
            receipt = attacker.run(counter)
        assert any("metadata" in one for one in middleman.asked), "nobody asked the hostile controller"
        assert receipt.outcome is Outcome.REFUSED, receipt


def honest_release_runs(attacker: Attacker, *, renewals: int = 0) -> None:
    """The positive control, and the recovery: an operator publishes again, and it is taken. A forged snapshot under
    a good key takes numbers of the roles it lists: `nebh trust renew` passes them."""
    for _ in range(renewals):
        attacker.renew()
    receipt = attacker.run(attacker.publish_release())
    assert receipt.outcome is Outcome.COMMITTED, receipt.detail


@pytest.mark.parametrize("role", ["rel-web", "targets"])
@pytest.mark.parametrize("who", ["controller", "stranger"])
def test_a_role_signed_by_a_wrong_key_is_refused(attacker: Attacker, role: str, who: str) -> None:
    state = attacker.state()
    release = attacker.next_release(state, env={"FORGED": "1"})
    path, data = release_path("web", release.counter), codec.encode(release)

    def change(body: Targets) -> None:
        if role == "rel-web":
            body.targets[path] = roles.target_file(path, data)
        else:
            old = state.trusted.policies["web"]
            wide = codec.encode(dataclasses.replace(old, version=old.version + 1, tmp_exec=True))
            body.targets["policy/web.json"] = roles.target_file("policy/web.json", wide)

    # the controller has the timestamp's key; a stranger's role comes under a good snapshot even (CI mode)
    wrong = attacker.controller if who == "controller" else STRANGER
    snapshot = attacker.controller if who == "controller" else attacker.operator
    forgers = Forgers(role=wrong, snapshot=snapshot, timestamp=attacker.controller)
    lie = serve(forge(state, forgers, role=role, change=change, files={path: data}))
    node_refuses(attacker, lie, release.counter)
    honest_release_runs(attacker, renewals=0 if who == "controller" else 2)


def test_older_metadata_is_refused(attacker: Attacker) -> None:
    before = attacker.state()
    honest_release_runs(attacker)
    counter = attacker.publish_release()
    node_refuses(attacker, serve(metadata_of(attacker, before)), counter)
    assert attacker.run(counter).outcome is Outcome.COMMITTED


def test_older_metadata_under_a_new_timestamp_is_refused(attacker: Attacker) -> None:
    """The controller holds the timestamp's key: it can make an old snapshot look fresh."""
    before = attacker.state()
    honest_release_runs(attacker)
    counter = attacker.publish_release()
    now = attacker.state()
    snapshot = before.roles["snapshot"]
    fresh = roles.seal_role(
        roles.Timestamp(snapshot_meta=roles.meta_file(snapshot, before.trusted.versions["snapshot"])),
        signers=(attacker.controller,),
        cluster_id=attacker.cluster_id,
        version=now.trusted.versions["timestamp"] + 1,
        now=int(time.time()),
        life=86_400,
    )
    files = {**metadata_of(attacker, before), "/v1/metadata/timestamp.json": fresh}
    node_refuses(attacker, serve(files), counter)
    honest_release_runs(attacker)


def test_a_node_that_lost_its_cache_takes_no_older_metadata(attacker: Attacker) -> None:
    """python-tuf's folder gone: the executor's own floors are what holds (N2)."""
    before = attacker.state()
    honest_release_runs(attacker)
    counter = attacker.publish_release()
    attacker.hint()
    time.sleep(1)
    shutil.rmtree(attacker.layout.trust("controller"))
    # to the executor alone it looks like a source that lags: a warning
    node_refuses(attacker, serve(metadata_of(attacker, before)), counter, event="metadata.")
    assert attacker.run(counter).outcome is Outcome.COMMITTED


def test_another_clusters_metadata_under_the_same_keys_is_refused(attacker: Attacker) -> None:
    other = init_cluster(
        name="other",
        operator=attacker.operator,
        controller=attacker.controller.public,
        entropy=os.urandom(16),
        cluster_id="f" * 32,
        now=int(time.time()),
    ).publication
    files = {
        **{f"/v1/metadata/{name}": data for name, data in other.metadata.items() if "root" not in name},
        **{f"/v1/targets/{name}": data for name, data in other.targets.items()},
    }
    counter = attacker.publish_release()
    node_refuses(attacker, serve(files), counter)
    assert attacker.run(counter).outcome is Outcome.COMMITTED


def test_another_clusters_release_is_refused(attacker: Attacker) -> None:
    """Signed by the right role even: an operator with one key for two clusters was tricked."""
    state = attacker.state()
    release = dataclasses.replace(attacker.next_release(state), cluster_id="f" * 32)
    draft = Draft.of(state, now=int(time.time()))
    draft.put(release_path("web", release.counter), codec.encode(release), role="rel-web")
    made = draft.finish(attacker.operator)
    files = {
        **{f"/v1/metadata/{name}": data for name, data in made.metadata.items()},
        **{f"/v1/targets/{name}": data for name, data in made.targets.items()},
    }
    node_refuses(attacker, serve(files), release.counter)
    honest_release_runs(attacker, renewals=2)


def test_a_controller_that_withholds_stops_nothing(attacker: Attacker) -> None:
    def nothing(target: str) -> bytes | None:
        if "/metadata/" in target:
            raise NotFound("no")
        return None

    with attacker.untouched(event="metadata."):
        with HostileController(attacker.layout.controller_socket, nothing):
            receipt = attacker.run(4242)
            assert receipt.outcome is Outcome.REFUSED
    running = next(one for one in attacker.status()["running"] if one["service"] == "web")["counter"]
    with HostileController(attacker.layout.controller_socket, nothing):
        assert attacker.run(running, phase=Phase.RESTART).outcome is Outcome.COMMITTED, "a restart needs nobody"
    honest_release_runs(attacker)


def test_a_release_below_the_floor_is_refused_unless_pinned(attacker: Attacker) -> None:
    def revise(**fields: object) -> None:
        def make(state: State) -> Wish:
            old = state.trusted.policies["web"]
            new: Policy = dataclasses.replace(old, version=old.version + 1, signed_at=int(time.time()), **fields)  # type: ignore[arg-type]
            return Wish(policies=(new,))

        attacker.publish(make)

    honest_release_runs(attacker)
    revise(rollback_window=1)
    with attacker.untouched(event="transaction.refused"):
        receipt = attacker.run(1)
        assert (receipt.outcome, receipt.rule) == (Outcome.REFUSED, "N5")
        assert "pin" in receipt.hint or "pin" in receipt.detail
    newest = next(one for one in attacker.status()["running"] if one["service"] == "web")["counter"]
    revise(pins=(1,))
    assert attacker.run(1).outcome is Outcome.COMMITTED, "pinned, it may be chosen"
    assert attacker.run(newest).outcome is Outcome.COMMITTED
    revise(pins=(), rollback_window=7 * 86_400_000)
    assert attacker.run(1).outcome is Outcome.COMMITTED, "inside the window it may be chosen"


@pytest.mark.parametrize("memory", ["kept", "lost"])
def test_the_command_line_signs_nothing_upon_older_files(attacker: Attacker, memory: str) -> None:
    """Shown an older targets file (and with it an older list of nodes), it stops; also when its own TUF folder is
    gone, because it keeps floors apart."""
    before = attacker.state()
    spec = write_service(attacker.cloud.folder / "spec", page="tiny 1")

    def widen(state: State) -> Wish:
        record = state.trusted.nodes.nodes[0]
        return Wish(nodes=(dataclasses.replace(record, groups=(*record.groups, f"g{len(record.groups)}")),))

    attacker.publish(widen)
    attacker.cloud.nebh("plan", str(spec))  # the operator's computer has seen the new list of nodes
    if memory == "lost":
        shutil.rmtree(attacker.folder / "trust")
    standing = attacker.state().trusted.versions
    with attacker.untouched():
        with HostileController(attacker.layout.controller_socket, serve(metadata_of(attacker, before))):
            done = attacker.cloud.nebh("deploy", str(spec), "--yes-widen", accept=tuple(range(256)))
        error = done.stderr.decode()
        assert done.status == 3, (done.status, error)
        assert error.count("nebh: ") == 1, error
        assert "hint:" in error
        assert "Traceback" not in error
        assert attacker.state().trusted.versions["targets"] == standing["targets"]
        assert attacker.state().trusted.versions["snapshot"] == standing["snapshot"]
    done = attacker.cloud.nebh("deploy", str(spec))
    assert done.status == 0


@pytest.mark.long
def test_a_stop_whose_policy_no_node_saw_is_not_confirmed(attacker: Attacker) -> None:
    """The controller takes the signed policy, shows it to nobody and has the node withdraw: after the next start of
    the node the service would run again (O5)."""
    frozen = metadata_of(attacker, attacker.state())
    everyone: list[HostileController] = []

    def lie(target: str) -> bytes | None:
        taken = any(line.startswith("POST") and "publi" in line for line in everyone[0].asked)
        return frozen.get(target) if taken else None

    middleman = HostileController(attacker.layout.controller_socket, lie)
    everyone.append(middleman)
    with middleman:
        done = attacker.cloud.nebh("stop", "web", "--timeout", "8", accept=tuple(range(256)))
    assert done.status == 4, done.stderr
    assert b"unconfirmed" in done.stderr
    for command in ("start", "stop", "start"):  # shown the policy, the node confirms it
        assert attacker.cloud.nebh(command, "web").status == 0
    accepted = attacker.publish_release()
    assert attacker.run(accepted).outcome is Outcome.COMMITTED


def test_no_program_left_a_traceback(attacker: Attacker) -> None:
    for log in attacker.layout.state.glob("*.log"):
        assert "Traceback" not in log.read_text(errors="replace"), attacker.cloud.say_logs()
