"""A hacked controller answers the command line with receipts of its own making: it stays unconfirmed, exit status 4."""

from __future__ import annotations

import base64
import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from nebh.cli import watch
from nebh.cli.output import Output
from nebh.cli.watch import Followed, follow
from nebh.model.errors import Unconfirmed
from nebh.model.node import Baseline, NodeRecord
from nebh.model.statement import Outcome, Receipt, TransportKey
from nebh.signing.statements import Seed, sign_statement

CLUSTER, NONCE = "c" * 32, "a" * 32
NODE, CONTROLLER = Seed(b"n" * 32), Seed(b"t" * 32)
RECORD = NodeRecord(
    node_id="1" * 64,
    name="one",
    groups=(),
    sign_pk=NODE.public,
    seal_pk="",
    wg_pk="",
    subnets=(),
    enrolled_at=1,
    baseline=Baseline(snapshot=1),
)
GOOD = Receipt(
    cluster_id=CLUSTER,
    node_id=RECORD.node_id,
    number=9,
    previous="0" * 64,
    at=1,
    nonce=NONCE,
    outcome=Outcome.COMMITTED,
    service="web",
    counter=2,
    snapshot=12,
)
TRANSPORT = TransportKey(cluster_id=CLUSTER, node_id=RECORD.node_id, transport_pk="b" * 64, not_after=1 << 40)


def receipt(*, key: Seed = NODE, kind: str = "receipt", **changes: Any) -> str:
    return base64.b64encode(sign_statement(kind, dataclasses.replace(GOOD, **changes), key)).decode()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes at each look: the command gives up after a few questions, however busy the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


class Controller:
    """What of a client `follow` calls; every question for receipts is answered with the same ones."""

    def __init__(self, *envelopes: str) -> None:
        self._receipts = tuple(SimpleNamespace(envelope=one) for one in envelopes)

    def receipts(self, **_: Any) -> Any:
        return SimpleNamespace(receipts=self._receipts, cursor=1)

    def events(self, **_: Any) -> Any:
        return SimpleNamespace(events=(), cursor=1)


def follows(*envelopes: str, published: int = 12) -> Followed:
    folder = SimpleNamespace(cluster=SimpleNamespace(cluster_id=CLUSTER))
    session: Any = SimpleNamespace(
        client=Controller(*envelopes), out=Output(quiet=True), folder=folder, snapshot=published
    )
    return follow(session, nonce=NONCE, service="web", nodes=(RECORD,), timeout=4, events_after=0)


FORGED = {
    "a controller's": receipt(key=CONTROLLER),
    "a stranger's": receipt(key=Seed(b"x" * 32)),
    "of another command": receipt(nonce="b" * 32),
    "of another cluster": receipt(cluster_id="d" * 32),
    "for another node": receipt(node_id="2" * 64),
    "before what was published": receipt(snapshot=11),
    "an order": receipt(kind="order"),
    "an assignment": receipt(kind="assignment"),
    "the node's word on another matter": base64.b64encode(sign_statement("transport", TRANSPORT, NODE)).decode(),
    "cut": receipt()[:-20],
    "changed": receipt()[:-12] + "A" * 12,
    "no base64": "%%%",
    "not of this world": "\u00fc\x1b[2J",
    "nothing": "",
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_receipt_confirms_nothing(what: str) -> None:
    with pytest.raises(Unconfirmed) as caught:
        follows(FORGED[what])
    assert caught.value.exit_status == 4
    assert "a receipt was ignored" in caught.value.message
    assert caught.value.message.isprintable()


def test_forged_receipts_beside_the_true_one_change_nothing() -> None:
    followed = follows(*FORGED.values(), receipt(), receipt(outcome=Outcome.FAILED, key=CONTROLLER))
    assert followed.receipts == {"one": GOOD}


def test_the_true_receipt_confirms() -> None:
    assert follows(receipt()).receipts == {"one": GOOD}
    assert follows(receipt(snapshot=13)).receipts["one"].snapshot == 13
    assert follows(receipt(snapshot=3), published=0).receipts["one"].snapshot == 3
    assert follows(receipt(snapshot=3, outcome=Outcome.REFUSED)).receipts["one"].outcome is Outcome.REFUSED
