"""DSSE envelopes and frames: the bytes around statements and messages."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.errors import BadInput
from nebh.wire import codec, dsse, frames


def test_pae_is_the_specifications_own_example() -> None:
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.text(max_size=20), st.binary(max_size=50), st.text(max_size=20), st.binary(max_size=50))
def test_pae_tells_any_two_pairs_apart(type_a: str, a: bytes, type_b: str, b: bytes) -> None:
    try:
        same = dsse.pae(type_a, a) == dsse.pae(type_b, b)
    except UnicodeEncodeError:
        return
    assert same == ((type_a, a) == (type_b, b))


def test_wrap_and_unwrap() -> None:
    kind = dsse.payload_type("order")
    assert kind == "application/vnd.nebh.order.v1+json"
    signature = dsse.Signature(keyid="k", sig=base64.b64encode(b"\x01\x02").decode())
    data = dsse.wrap(kind, b'{"a":1}', (signature,))
    assert set(json.loads(data)) == {"payload", "payloadType", "signatures"}
    assert dsse.unwrap(data) == (kind, b'{"a":1}', (("k", b"\x01\x02"),))


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "!!!!"},
        {"payload": "YQ"},
        {"payload": "YQ==\n"},
        {"signatures": [{"keyid": "k", "sig": "***"}]},
        {"signatures": [{"keyid": "k", "sig": "", "extra": 1}]},
        {"signatures": {}},
        {"more": 1},
    ],
)
def test_broken_envelopes_are_refused(change: dict[str, object]) -> None:
    envelope = {"payload": "YQ==", "payloadType": "t", "signatures": []}
    assert dsse.unwrap(codec.encode(envelope)) == ("t", b"a", ())
    with pytest.raises(BadInput, match="cannot read a signed statement"):
        dsse.unwrap(codec.encode({**envelope, **change}))


def test_an_endless_envelope_is_refused() -> None:
    envelope = {"payload": "A" * (dsse.LIMIT + 4), "payloadType": "t", "signatures": []}
    with pytest.raises(BadInput, match="at most"):
        dsse.unwrap(codec.encode(envelope))


def test_frames_round_trip() -> None:
    data = frames.pack({"op": "poll", "n": 3}, b"body")
    head_size, body_size = frames.PREFIX.unpack(data[: frames.PREFIX.size])
    rest = data[frames.PREFIX.size :]
    assert body_size == 4
    assert frames.parse_head(rest[:head_size]) == {"op": "poll", "n": 3}
    assert rest[head_size:] == b"body"


@pytest.mark.parametrize(
    "head", [b"", b"[]", b"3", b'{"op":3}', b'{"op": "x"}', b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":1.5}', b"\xff"]
)
def test_heads_that_are_not_canonical_objects_are_refused(head: bytes) -> None:
    with pytest.raises(BadInput):
        frames.parse_head(head)


def test_frames_have_limits_on_both_sides() -> None:
    frames.check_lengths(frames.HEAD_LIMIT, frames.BODY_LIMIT)
    for head, body in ((frames.HEAD_LIMIT + 1, 0), (0, frames.BODY_LIMIT + 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(BadInput, match="over the limit"):
            frames.check_lengths(head, body)
    with pytest.raises(BadInput):
        frames.pack({}, b"x" * (frames.BODY_LIMIT + 1))
