"""Stolen keys, numbers that ran ahead, a wrong clock, a reboot without a network; and four rules switched off in the
real executor. One node, whose keys are all here; each attack leaves the container as it was, beside a control."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tuf.api._payload import Snapshot, Timestamp

from nebh.client.frame_channel import connect_frames
from nebh.model.errors import BadInput, Refused
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.service import Placement, Replicas
from nebh.model.statement import Action, Assignment, Order, Outcome, Phase
from nebh.signing import key_life, roles
from nebh.signing.repository import Draft, Publication, State
from nebh.signing.statements import Seed, sign_statement
from nebh.signing.trusted_set import policy_path, release_path
from nebh.signing.wish import Wish, apply_wish
from nebh.testing.node import Node
from nebh.testing.whole import outcomes
from nebh.wire import codec

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(600)]
CI = Seed(b"i" * 32)
YEAR = 366 * 86_400
FAR = 2**53 - 1


def who(node: Node) -> list[tuple[str, int, int]]:
    return [(one["id"], one["pid"], one["started"]) for one in node.instances("serving")]


@contextlib.contextmanager
def untouched(node: Node) -> Iterator[None]:
    """Same container, same start time, still answering."""
    node.settle()
    before, page = who(node), node.page()
    assert before
    assert page.startswith("v"), page
    yield
    node.settle()
    assert (who(node), node.page()) == (before, page)


def running(node: Node) -> int:
    counter: int = node.instances("serving")[0]["counter"]
    return counter


def ends(node: Node, nonce: str) -> Outcome:
    node.until(lambda: outcomes(node, nonce), "a receipt")
    node.settle()
    return outcomes(node, nonce)[-1]


def refused(node: Node, counter: int, **fields: Any) -> None:
    with untouched(node):
        assert ends(node, node.assign(counter, **fields)) is Outcome.REFUSED, node.tail()


def runs(node: Node, counter: int, **fields: Any) -> None:
    assert ends(node, node.assign(counter, **fields)) is Outcome.COMMITTED, node.tail()
    assert node.page() == f"v{counter}"


def control(node: Node) -> None:
    """The positive control, and the recovery: an honest release is taken."""
    runs(node, node.publish_release())


@contextlib.contextmanager
def served_beside(node: Node) -> Iterator[None]:
    """Whatever is served inside is gone afterwards."""
    folder = node.served / "metadata"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    yield
    for path in folder.iterdir():
        path.unlink()
    for name, data in before.items():
        (folder / name).write_bytes(data)


def release_of(state: State, counter: int, **fields: Any) -> bytes:
    old = state.trusted.releases[max(state.trusted.releases, key=lambda path: int(path.split("/")[2][:-5]))]
    return codec.encode(dataclasses.replace(old, counter=counter, signed_at=int(time.time()), **fields))


def overreach(node: Node, role: str, path: str, data: bytes) -> Publication:
    """What the CI key signs beyond its right, under a snapshot and timestamp that are good."""
    state = node.signed()
    draft = Draft.of(state, now=int(time.time()))
    body = draft.releases.get(role, draft.targets)
    body.targets[path] = roles.target_file(path, data)
    version = state.trusted.versions[role] + 1
    forged = roles.seal_role(
        body, signers=(CI,), cluster_id=state.cluster_id, version=version, now=int(time.time()), life=9999
    )
    draft._meta[f"{role}.json"] = roles.meta_file(forged, version)
    made = draft.finish(node.operator)
    return dataclasses.replace(
        made,
        metadata={**made.metadata, f"{version}.{role}.json": forged},
        targets={roles.served_target(path, data): data},
    )


def policy(node: Node, **fields: Any) -> None:
    """The operator signs a policy with other fields; without any: the ordinary one."""
    node.sign(Wish(policies=(dataclasses.replace(node.next_policy(), **fields),)))


# ------------------------------------------------------------------ rules switched off in the executor that runs


def restart(node: Node, *disabled: str) -> None:
    """The executor again, without these rules; containers do not notice."""
    node.end_executor()
    node.disabled = disabled
    node.start()


@pytest.mark.parametrize(
    ("rule", "fields", "replicas"),
    [
        ("N4.placement", {"placement": Placement(nodes=("elsewhere",))}, 1),
        ("N5.floor", {"min_release": 10_000}, 1),
        ("N8.replicas", {"replicas": Replicas(count=1, min=1, max=1)}, 2),
        ("N14.lint", {"lint_exceptions": ()}, 1),
    ],
)
def test_the_executor_obeys_a_refused_command_only_without_the_rule(
    node: Node, rule: str, fields: dict[str, Any], replicas: int
) -> None:
    counter = node.publish_release()
    policy(node, **fields)
    refused(node, counter, replicas=replicas)
    found = node.history()[0]
    assert found["rule"] == rule.partition(".")[0], found
    try:
        with untouched(node):
            restart(node, rule)
        runs(node, counter, replicas=replicas)
    finally:
        restart(node)
    policy(node)
    control(node)


# -------------------------------------------------------------------------------------------------- stolen keys


def let_ci(node: Node) -> None:
    node.sign(Wish(ci_keys={"web": (CI.public,)}))


def renew(node: Node) -> None:
    """`nebh trust renew`: past the numbers that forged sets under good keys took."""
    for _ in range(2):
        node.publish(key_life.renew(node.signed(), key=node.operator, now=int(time.time())).publication)


def rules_said(node: Node, after: int) -> set[str]:
    """Return the rules of what the node said of metadata since then."""
    news = events(node, after)
    return {one["facts"].get("rule", "") for one in news if one["kind"].startswith("metadata.")}


def events(node: Node, after: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := node.ask({"op": "poll", "receipt": 1 << 50, "event": after, "wait_ms": 0})["events"]:
        found += page
        after = page[-1]["number"]
    return found


def newest(node: Node) -> int:
    return int(events(node)[-1]["number"])


def test_a_stolen_ci_key_stays_inside_its_service(node: Node) -> None:
    let_ci(node)
    state = node.signed()
    old = state.trusted.policies["web"]
    wide: Policy = dataclasses.replace(old, version=old.version + 1, tmp_exec=True)
    shop = dataclasses.replace(wide, service="shop", version=1)
    attacks = [
        ("targets", policy_path("web"), codec.encode(wide), "N1"),
        ("targets", policy_path("shop"), codec.encode(shop), "N1"),
        ("rel-web", release_path("shop", 1), release_of(state, 1, service="shop"), "N3"),
        ("rel-web", policy_path("web"), codec.encode(wide), "N3"),
    ]
    for role, path, data, rule in attacks:
        start, forged = newest(node), overreach(node, role, path, data)
        with untouched(node), served_beside(node):
            node.publish(forged)
            assert ends(node, node.assign(running(node) + 1000)) is Outcome.REFUSED, (role, path)
            assert rule in rules_said(node, start), (role, path, rules_said(node, start))
            assert [one["service"] for one in node.status()["running"]] == ["web"]
        renew(node)
    with pytest.raises(Refused):  # nor do our own tools sign it
        apply_wish(state, Wish(policies=(wide,)), key=CI, now=int(time.time()))
    control(node)


def test_a_stolen_ci_key_signs_nothing_after_its_revocation(node: Node) -> None:
    let_ci(node)
    state = node.signed()
    counter = state.trusted.releases and running(node) + 500
    late = apply_wish(
        state,
        Wish(releases=(codec.decode(release_of(state, counter), Release, what="it"),)),
        key=CI,
        now=int(time.time()),
    ).publication
    signed = key_life.revoke_ci(state, service="web", public=CI.public, key=node.operator, now=int(time.time()))
    node.publish(signed.publication)
    with untouched(node), served_beside(node):
        (node.served / "metadata").joinpath(next(iter(late.metadata))).write_bytes(next(iter(late.metadata.values())))
        assert ends(node, node.assign(counter)) is Outcome.REFUSED
    with pytest.raises(Refused):
        apply_wish(node.signed(), Wish(releases=late_release(late)), key=CI, now=int(time.time()))
    control(node)


def late_release(publication: Publication) -> tuple[Release, ...]:
    return tuple(codec.decode(data, Release, what="a release") for data in publication.targets.values())


def test_a_revoked_operator_key_gives_nothing_any_more(node: Node) -> None:
    """Stolen; the words put another in its place; the thief goes on trying."""
    old, stale = node.operator, node.signed()
    node.operator = Seed(secrets.token_bytes(32))
    now = int(time.time())
    node.publish(key_life.recover(stale, recovery_words=node.words, key=node.operator, now=now).publication)
    node.submit("hint")
    node.until(lambda: node.status()["snapshot"] > stale.trusted.versions["snapshot"], "the node knows the new key")
    wide = dataclasses.replace(stale.trusted.policies["web"], version=99, tmp_exec=True)
    thief = apply_wish(stale, Wish(releases=()), key=old, now=now)
    draft = Draft.of(stale, now=now)
    draft.put(policy_path("web"), codec.encode(wide))
    start = newest(node)
    with untouched(node), served_beside(node):
        for publication in (thief.publication, draft.finish(old)):
            node.publish(publication)
            assert ends(node, node.assign(running(node) + 900)) is Outcome.REFUSED
        assert rules_said(node, start) & {"N1", "N2"}
        order = Order(
            cluster_id=node.cluster_id,
            nodes=(node.node_id,),
            service="web",
            action=Action.REMOVE,
            nonce=secrets.token_hex(16),
            signed_at=now,
            not_after=now + 600,
        )
        with pytest.raises(Refused):
            node.ask({"op": "submit", "kind": "order", "source": "controller"}, sign_statement("order", order, old))
    control(node)


def test_the_host_name_of_another_service_is_not_taken_over(node: Node) -> None:
    """Even an operator's key does not give one name to two: both would be the one that serves it."""
    state, start = node.signed(), newest(node)
    evil = dataclasses.replace(state.trusted.policies["web"], service="evil", version=1)
    draft = Draft.of(state, now=int(time.time()))
    draft.put(policy_path("evil"), codec.encode(evil))
    with untouched(node), served_beside(node):
        node.publish(draft.finish(node.operator))
        assert ends(node, node.assign(running(node) + 800)) is Outcome.REFUSED
        assert rules_said(node, start) == {"N3"}
    renew(node)
    control(node)


def test_one_number_with_two_contents_is_equivocation(node: Node) -> None:
    counter = node.publish_release()
    runs(node, counter)
    control(node)
    state = node.signed()
    path = release_path("web", counter)
    other = codec.encode(dataclasses.replace(state.trusted.releases[path], env={"OTHER": "1"}))
    draft = Draft.of(state, now=int(time.time()))
    draft.put(path, other, role="rel-web" if "rel-web" in draft.releases else draft.release_role("web"))
    with served_beside(node):
        node.publish(draft.finish(node.operator))
        refused(node, counter)
        assert node.history()[0]["rule"] == "N5"
    renew(node)
    runs(node, counter)
    control(node)


# --------------------------------------------------------------------------------------------- numbers that ran ahead


def run_ahead(node: Node, role: str) -> None:
    """The controller's key signs the highest number there is."""
    state = node.signed()
    snapshot = roles.parse_role(state.roles["snapshot"], Snapshot)
    now, data, number = int(time.time()), state.roles["snapshot"], state.trusted.versions["snapshot"]
    made: dict[str, bytes] = {}

    def seal(body: Snapshot | Timestamp) -> bytes:
        return roles.seal_role(
            body, signers=(node.controller,), cluster_id=state.cluster_id, version=FAR, now=now, life=86_400
        )

    if role == "snapshot":
        data, number = seal(snapshot), FAR
        made[f"{FAR}.snapshot.json"] = data
    made["timestamp.json"] = seal(Timestamp(snapshot_meta=roles.meta_file(data, number)))
    node.publish(Publication(cluster_id=state.cluster_id, base={}, metadata=made))


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_number_that_a_controller_ran_ahead_is_brought_back_by_another_key(node: Node, role: str) -> None:
    now = int(time.time())

    def controllers(key: Seed, *, ci_mode: bool) -> Publication:
        return key_life.set_controllers(
            node.signed(),
            recovery_words=node.words,
            publics=(key.public,),
            key=node.operator,
            now=now,
            ci_mode=ci_mode,
        ).publication

    node.publish(controllers(node.controller, ci_mode=role == "snapshot"))
    with untouched(node):
        run_ahead(node, role)
        node.submit("hint")
        if role == "snapshot":
            node.until(lambda: node.status()["snapshot"] == FAR, "the node took it: the key was good")
    fresh = Seed(secrets.token_bytes(32))
    node.publish(controllers(fresh, ci_mode=False))
    node.controller, hacked = fresh, node.controller
    control(node)
    assert node.status()["snapshot"] < FAR
    node.controller = hacked
    counter = running(node)
    with pytest.raises(Refused):
        node.ask({"op": "submit", "kind": "assignment", "source": "controller"}, assignment(node, counter=counter))
    node.controller = fresh
    control(node)


def assignment(node: Node, **fields: Any) -> bytes:
    node.seq += 1
    base = Assignment(
        cluster_id=node.cluster_id,
        node_id=node.node_id,
        seq=node.seq,
        assignment_id=secrets.token_hex(16),
        nonce=secrets.token_hex(16),
        service="web",
        epoch=1,
        counter=1,
        replicas=1,
        phase=Phase.RESTART,
    )
    return sign_statement("assignment", dataclasses.replace(base, **fields), node.controller)


# ------------------------------------------------------------------------------------------- statements, and the agent


def test_what_the_node_itself_signed_is_nothing_it_obeys(node: Node) -> None:
    """Its receipts and its word about the agent's key, handed back as if they were commands."""
    page = node.ask({"op": "poll", "receipt": 0, "event": 1 << 50, "wait_ms": 0})["receipts"]
    with connect_frames(node.layout.executor_socket) as channel:
        _, transport = channel.request({"op": "transport", "public": "a" * 64})
    with untouched(node):
        for data in (base64.b64decode(page[0][1]), transport):
            for kind in ("assignment", "order"):
                with pytest.raises((BadInput, Refused)):
                    node.ask({"op": "submit", "kind": kind, "source": "controller"}, data)
    control(node)


def test_assignments_that_come_in_the_other_order(node: Node) -> None:
    first, second = assignment(node, counter=running(node)), assignment(node, counter=running(node))
    node.ask({"op": "submit", "kind": "assignment", "source": "controller"}, second)
    with untouched(node), pytest.raises(Refused) as caught:
        node.ask({"op": "submit", "kind": "assignment", "source": "controller"}, first)
    assert caught.value.rule == "assignment.seq"
    control(node)


# -------------------------------------------------------------------------------------------------- clock and reboot


@pytest.mark.parametrize("years", [-1, 10])
def test_a_wrong_clock_brings_nothing_new_and_stops_nothing(node: Node, years: int) -> None:
    counter = node.publish_release()
    node.settle()
    node.clock = years * YEAR
    try:
        with untouched(node):
            restart(node)
            start = newest(node)
            assert ends(node, node.assign(counter)) is Outcome.REFUSED
            assert rules_said(node, start) == {"N13" if years < 0 else "N1"}
        assert ends(node, node.assign(running(node), phase=Phase.RESTART)) is Outcome.COMMITTED, "what ran goes on"
    finally:
        node.clock = 0
        restart(node)
    runs(node, counter)


def test_services_come_back_after_a_reboot_without_a_network_and_with_expired_metadata(node: Node) -> None:
    node.settle()
    page = node.page()
    node.power_cut()
    node.clock = 10 * YEAR
    try:
        node.layout.run.mkdir(mode=0o755, exist_ok=True)
        node.start()  # and no agent: nobody fetches anything
        node.until(lambda: node.page() == page, "the service answers again")
        node.settle()
        counter = running(node)
        assert ends(node, node.assign(counter, phase=Phase.RESTART)) is Outcome.COMMITTED
        assert node.page() == page
    finally:
        node.clock = 0
        node.agent = node.fork("agent")
        restart(node)
    control(node)


def test_the_executor_left_no_traceback(node: Node) -> None:
    assert "Traceback" not in node.log.read_text(errors="replace")
