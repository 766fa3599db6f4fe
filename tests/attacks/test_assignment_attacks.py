"""A hacked controller, or a hacked agent, chooses: what is not signed, not for this node or not new is refused.

The rules one by one, each switched off, are in tests/planning/test_accept.py.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time

import pytest

from nebh.client.frame_channel import connect_frames
from nebh.host.channels import Closed, connect_unix
from nebh.model.errors import BadInput, NebhError, NotFound, Refused
from nebh.model.service import Placement, PlacementMode
from nebh.model.statement import Action, Assignment, Order, Outcome, Phase
from nebh.signing.keys import generate_key
from nebh.signing.repository import State
from nebh.signing.statements import sign_statement
from nebh.signing.wish import Wish
from nebh.testing.attacks import Attacker, rule_of
from nebh.wire import codec, frames

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]
STRANGER = generate_key()


def accepted(attacker: Attacker) -> None:
    """The positive control: the same choice, well made, is obeyed."""
    assert attacker.run(1).outcome is Outcome.COMMITTED


def refused(attacker: Attacker, wish: Assignment, error: NebhError | None, rule: str) -> None:
    assert rule_of(error) == rule
    receipt = attacker.outcome(wish.nonce)
    assert (receipt.outcome, receipt.rule) == (Outcome.REFUSED, rule)
    assert receipt.detail


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"cluster_id": "f" * 32}, "N0"),
        ({"node_id": "e" * 64}, "N4"),
        ({"seq": 1}, "assignment.seq"),
    ],
    ids=["another cluster's", "another node's", "reordered"],
)
def test_an_assignment_of_elsewhere_or_long_ago_is_refused(
    attacker: Attacker, fields: dict[str, object], rule: str
) -> None:
    wish = attacker.assignment(**fields)
    with attacker.untouched(event="assignment.refused"):
        refused(attacker, wish, attacker.assign(wish), rule)
    accepted(attacker)


@pytest.mark.parametrize("who", ["stranger", "operator"])
def test_an_assignment_by_another_key_is_refused(attacker: Attacker, who: str) -> None:
    wish = attacker.assignment()
    with attacker.untouched(event="assignment.refused"):
        key = STRANGER if who == "stranger" else attacker.operator
        refused(attacker, wish, attacker.assign(wish, key=key), "N1")
    assert attacker.assign(wish) is None, "the same assignment, signed by the controller, is taken"
    assert attacker.outcome(wish.nonce).outcome is not Outcome.FAILED


def test_an_assignment_changed_after_signing_is_refused(attacker: Attacker) -> None:
    wish = attacker.assignment()
    good, other = (
        sign_statement("assignment", one, attacker.controller)
        for one in (wish, dataclasses.replace(wish, nonce=secrets.token_hex(16)))
    )
    first, second = codec.decode(good, dict, what="it"), codec.decode(other, dict, what="it")
    forged = codec.encode({**second, "signatures": first["signatures"]})
    with attacker.untouched(event="assignment.refused"):
        error = attacker.submit("assignment", forged)
        assert rule_of(error) == "N1"
    assert attacker.submit("assignment", good) is None


def test_a_replayed_assignment_is_refused(attacker: Attacker) -> None:
    wish = attacker.assignment()
    envelope = sign_statement("assignment", wish, attacker.controller)
    assert attacker.submit("assignment", envelope) is None
    assert attacker.outcome(wish.nonce).outcome is Outcome.COMMITTED
    with attacker.untouched(event="assignment.refused"):
        error = attacker.submit("assignment", envelope)
        assert rule_of(error) == "assignment.seq"
    accepted(attacker)


def test_a_number_that_runs_ahead_does_not_shut_out_later_ones(attacker: Attacker) -> None:
    with attacker.untouched(event="assignment.refused"):
        assert rule_of(attacker.assign(attacker.assignment(seq=2**53 - 1))) == "assignment.seq"
    accepted(attacker)


def test_an_assignment_with_an_extra_field_is_refused(attacker: Attacker) -> None:
    wish = {**codec.to_plain(attacker.assignment()), "image": "sha256:0"}
    with attacker.untouched(event="assignment.refused"):
        error = attacker.assign(wish)
        assert isinstance(error, BadInput)
        assert "image" in error.message
    accepted(attacker)


def test_other_statements_are_no_assignments(attacker: Attacker) -> None:
    wish = attacker.assignment()
    for kind in ("order", "receipt", "transport"):
        envelope = sign_statement(kind, wish, attacker.controller)
        with attacker.untouched(event="assignment.refused"):
            assert isinstance(attacker.submit("assignment", envelope), BadInput | Refused)
    accepted(attacker)


def place(attacker: Attacker, placement: Placement) -> None:
    """The operator signs a policy with another placement."""

    def make(state: State) -> Wish:
        old = state.trusted.policies["web"]
        new = dataclasses.replace(old, version=old.version + 1, placement=placement, signed_at=int(time.time()))
        return Wish(policies=(new,))

    attacker.publish(make)


def test_a_pinned_service_is_not_withdrawn_and_a_spread_one_is(attacker: Attacker) -> None:
    place(attacker, Placement(mode=PlacementMode.PINNED))
    try:
        wish = attacker.assignment(phase=Phase.WITHDRAW, replicas=0)
        with attacker.untouched(event="assignment.refused"):
            refused(attacker, wish, attacker.assign(wish), "assignment.withdraw")
    finally:
        place(attacker, Placement())
    assert attacker.run(1, phase=Phase.WITHDRAW, replicas=0).outcome is Outcome.STOPPED
    accepted(attacker)


@pytest.mark.parametrize("service", ["nobodys", "../../executor", "", "x" * 5000], ids=["new", "path", "none", "long"])
def test_a_service_that_nobody_signed_leaves_no_trace(attacker: Attacker, service: str) -> None:
    wish = attacker.assignment(service=service)
    with attacker.untouched(event="assignment.refused"):
        refused(attacker, wish, attacker.assign(wish), "N3")
    assert [one["service"] for one in attacker.status()["running"]] == ["web"]
    accepted(attacker)


def test_a_release_that_nobody_listed_is_refused(attacker: Attacker) -> None:
    with attacker.untouched(event="transaction.refused"):
        receipt = attacker.run(4242)
        assert (receipt.outcome, receipt.rule) == (Outcome.REFUSED, "N6")
    accepted(attacker)


def test_more_replicas_than_the_policy_allows_are_refused(attacker: Attacker) -> None:
    with attacker.untouched(event="transaction.refused"):
        receipt = attacker.run(1, replicas=9)
        assert (receipt.outcome, receipt.rule) == (Outcome.REFUSED, "N8")
    accepted(attacker)


def test_misplacement_is_refused(attacker: Attacker) -> None:
    place(attacker, Placement(nodes=("elsewhere",)))
    try:
        with attacker.untouched(event="transaction.refused"):
            receipt = attacker.run(1, phase=Phase.RESTART)
            assert (receipt.outcome, receipt.rule) == (Outcome.REFUSED, "N4")
    finally:
        place(attacker, Placement())
    accepted(attacker)


def test_orders_are_taken_once_in_time_and_from_operators_only(attacker: Attacker) -> None:
    now = int(time.time())
    good = Order(
        cluster_id=attacker.cluster_id,
        nodes=(attacker.node_id,),
        service="nothing",
        action=Action.REMOVE,
        nonce=secrets.token_hex(16),
        signed_at=now,
        not_after=now + 600,
    )
    victim = dataclasses.replace(good, service="web")
    fresh = [dataclasses.replace(victim, nonce=secrets.token_hex(16)) for _ in range(5)]
    attacks = [
        (fresh[0], attacker.controller, "N1"),
        (dataclasses.replace(fresh[1], not_after=now - 5), attacker.operator, "order"),
        (dataclasses.replace(fresh[2], cluster_id="f" * 32), attacker.operator, "N0"),
        (dataclasses.replace(fresh[3], nodes=("e" * 64,)), attacker.operator, "N4"),
        (dataclasses.replace(fresh[4], signed_at=now + 9000), attacker.operator, "N13"),
    ]
    for order, key, rule in attacks:
        with attacker.untouched(event="order.refused"):
            error = attacker.order(order, key=key)
            assert rule_of(error) == rule
            receipt = attacker.outcome(order.nonce)
            assert (receipt.outcome, receipt.rule) == (Outcome.REFUSED, rule)
    with attacker.untouched(event="order.refused"):
        assert isinstance(
            attacker.submit("order", sign_statement("order", {**codec.to_plain(good), "x": 1}, attacker.operator)),
            BadInput,
        )
    assert attacker.order(good) is None, "a well signed order is carried out"
    assert attacker.outcome(good.nonce).outcome is Outcome.REMOVED
    with attacker.untouched(event="order.refused"):
        error = attacker.order(good)
        assert rule_of(error) == "order"


def test_the_agent_asks_for_nothing_of_roots(attacker: Attacker) -> None:
    heads: tuple[dict[str, object], ...] = (
        {"op": "status"},
        {"op": "inspect", "service": "web"},
        {"op": "rollback", "service": "web", "to": 1},
        {"op": "identity"},
        {"op": "enrol", "cluster_id": "f" * 32, "node_id": "e" * 64, "name": "x"},
        {"op": "doctor"},
        {"op": "debug", "instance": attacker.answering().id},
    )
    with attacker.untouched(event="door.refused"):
        for head in heads:
            with pytest.raises(Refused) as caught:
                attacker.ask(head, as_agent=True)
            assert caught.value.rule == "peer"
    assert attacker.ask({"op": "inspect", "service": "web"})["service"]


def test_a_user_who_is_neither_agent_nor_root_is_sent_away(attacker: Attacker) -> None:
    # the socket's mode keeps others out; even where it did not, the kernel says who asks
    with attacker.untouched():
        os.seteuid(65534)
        try:
            with pytest.raises(NebhError):
                connect_frames(attacker.layout.executor_socket).request({"op": "poll", "receipt": 0, "event": 0})
        finally:
            os.seteuid(0)


@pytest.mark.parametrize(
    "head",
    [
        {"op": "run"},
        {"op": ""},
        {},
        {"op": "submit", "kind": "release", "source": "controller"},
        {"op": "submit", "source": "controller"},
        {"op": "submit", "kind": "hint", "source": "controller", "as": "root"},
        {"op": "poll", "receipt": -1, "event": 0},
        {"op": "poll", "receipt": "1", "event": 0},
        {"op": "logs"},
        {"op": "logs", "service": "web", "cursors": {"web-1-0-1": 7}},
        {"op": "logs", "service": "web", "instance": "../../executor"},
        {"op": "transport", "public": "0"},
    ],
    ids=lambda head: " ".join(str(value) for value in head.values()) or "nothing",
)
def test_unknown_and_wrong_requests_are_answered_and_do_nothing(attacker: Attacker, head: dict[str, object]) -> None:
    with attacker.untouched():
        with pytest.raises((BadInput, NotFound)) as caught:
            attacker.ask(head, as_agent=True)
        assert caught.value.message


def test_garbage_on_the_socket_does_nothing(attacker: Attacker) -> None:
    good = frames.pack({"op": "poll", "receipt": 0, "event": 0, "wait_ms": 0})
    noise = (
        b"GET / HTTP/1.1\r\n\r\n",
        secrets.token_bytes(4096),
        b"\xff" * 8,
        frames.PREFIX.pack(1 << 20, 1 << 20) + b"{",
        frames.PREFIX.pack(2, 0) + b"[]",
        frames.PREFIX.pack(4, 0) + b"null",
        frames.PREFIX.pack(14, 0) + b'{"op":"hint" }',
        frames.PREFIX.pack(26, 0) + b'{"op":"a","op":"b","c":12}',
        frames.PREFIX.pack(9, 0) + b'{"op": 1}',
        frames.PREFIX.pack(2000, 0) + b'{"op":' * 300 + b"[" * 200,
        good[:5],
        b"",
    )
    with attacker.untouched():
        for data in noise:
            with connect_unix(attacker.layout.executor_socket) as channel:
                channel.send(data)
                channel.finish()
                answer = b""
                try:
                    while more := channel.receive_some(65536, timeout=60.0):
                        answer += more
                except Closed:
                    pass
                assert b"Traceback" not in answer
        for body in (b"", b"{}", secrets.token_bytes(500), b"[" * 60_000, b"\x00" * (1 << 20)):
            for kind in ("assignment", "order"):
                assert isinstance(attacker.submit(kind, body), BadInput)
    assert "receipts" in attacker.ask({"op": "poll", "receipt": 0, "event": 0, "wait_ms": 0}, as_agent=True)
    accepted(attacker)


def test_a_mis_signed_probe_is_refused_and_a_well_signed_one_runs(attacker: Attacker) -> None:
    """What `nebh doctor` does: the same statement, once under a key of nobody, once under the controller's."""
    probe = attacker.assignment(phase=Phase.RESTART)
    with attacker.untouched(event="assignment.refused"):
        refused(attacker, probe, attacker.assign(probe, key=STRANGER), "N1")
    before = attacker.answering()
    receipt = attacker.run(1, phase=Phase.RESTART)
    assert receipt.outcome is Outcome.COMMITTED
    assert attacker.answering().id != before.id


def test_no_program_left_a_traceback(attacker: Attacker) -> None:
    for log in attacker.layout.state.glob("*.log"):
        assert "Traceback" not in log.read_text(errors="replace"), attacker.cloud.say_logs()
