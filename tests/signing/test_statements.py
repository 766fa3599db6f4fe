"""Signed statements: what verifies, and that nothing else does."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.errors import BadInput, Broken, NebhError, NotFound, Refused
from nebh.model.statement import Action, Assignment, Order, Phase
from nebh.signing.node_keys import ensure_node_keys, load_node_keys
from nebh.signing.statements import Seed, keyid_of, peek_statement, sign_statement, verify_statement
from nebh.signing.tuf_keys import tuf_key
from nebh.wire import codec, dsse

KEY, OTHER = Seed(b"k" * 32), Seed(b"x" * 32)
ASSIGNMENT = Assignment(
    cluster_id="c",
    node_id="n",
    seq=4,
    assignment_id="a",
    nonce="00",
    service="web",
    epoch=1,
    counter=7,
    replicas=1,
    phase=Phase.RUN,
)


def test_a_signed_assignment_comes_back():
    data = sign_statement("assignment", ASSIGNMENT, KEY)
    assert (
        verify_statement(data, "assignment", Assignment, keys={OTHER.public, KEY.public}, cluster_id="c") == ASSIGNMENT
    )
    assert peek_statement(data, "assignment", Assignment) == ASSIGNMENT


def test_a_keyid_is_the_same_in_tuf_and_in_statements():
    assert tuf_key(KEY.public).keyid == keyid_of(KEY.public)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import SSlibKey

    assert SSlibKey.from_crypto(Ed25519PrivateKey.from_private_bytes(KEY.seed).public_key()).keyid == keyid_of(
        KEY.public
    )


@pytest.mark.parametrize(
    ("keys", "kind", "cluster", "rule"),
    [
        (set(), "assignment", "c", "N1"),
        ({OTHER.public}, "assignment", "c", "N1"),
        ({KEY.public}, "order", "c", "N1"),
        ({KEY.public}, "assignment", "d", "N0"),
        ({"nonsense"}, "assignment", "c", "N1"),
    ],
)
def test_refusals(keys, kind, cluster, rule):
    data = sign_statement("assignment", ASSIGNMENT, KEY)
    with pytest.raises(Refused) as refusal:
        verify_statement(data, kind, Assignment, keys=keys, cluster_id=cluster)
    assert refusal.value.rule == rule


def test_an_extra_field_is_refused_even_when_signed():
    plain = {**codec.to_plain(ASSIGNMENT), "data": "rewind"}
    data = sign_statement("assignment", plain, KEY)
    with pytest.raises(BadInput, match="data"):
        verify_statement(data, "assignment", Assignment, keys={KEY.public})


def test_a_receipt_is_no_order():
    order = Order(
        cluster_id="c", nodes=("n",), service="web", action=Action.REMOVE, nonce="1", signed_at=1, not_after=2
    )
    with pytest.raises(Refused):
        verify_statement(sign_statement("receipt", order, KEY), "order", Order, keys={KEY.public})


@given(st.binary(max_size=300))
def test_garbage_raises_our_errors_only(data):
    with pytest.raises(NebhError):
        verify_statement(data, "assignment", Assignment, keys={KEY.public})


@given(st.data())
def test_no_changed_byte_verifies(data):
    good = sign_statement("assignment", ASSIGNMENT, KEY)
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255))
    bad = good[:at] + bytes([byte]) + good[at + 1 :]
    if bad != good:
        with pytest.raises(NebhError):
            verify_statement(bad, "assignment", Assignment, keys={KEY.public})


def test_the_type_is_part_of_what_is_signed():
    data = json.loads(sign_statement("assignment", ASSIGNMENT, KEY))
    data["payloadType"] = dsse.payload_type("order")
    with pytest.raises(Refused):
        verify_statement(codec.encode(data), "order", Assignment, keys={KEY.public})
    assert base64.b64decode(data["payload"])


def test_node_keys_are_made_once_and_kept_private(tmp_path):
    keys = ensure_node_keys(tmp_path / "keys")
    assert ensure_node_keys(tmp_path / "keys") == keys
    assert load_node_keys(tmp_path / "keys") == keys
    for name in ("sign.key", "seal.key"):
        assert (tmp_path / "keys" / name).stat().st_mode & 0o777 == 0o600
    (tmp_path / "keys" / "sign.key").chmod(0o644)
    with pytest.raises(Broken):
        load_node_keys(tmp_path / "keys")
    with pytest.raises(NotFound):
        load_node_keys(tmp_path / "none")


def test_a_key_never_prints_itself():
    assert KEY.seed.hex() not in repr(KEY)
    assert dataclasses.is_dataclass(KEY)
