"""One value, one encoding, and only that encoding is taken."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.errors import BadInput
from nebh.model.service import Check, CheckKind, Health, Limits, Route, RouteTls
from nebh.model.statement import Assignment, Phase
from nebh.wire import codec

WISH = Assignment(
    cluster_id="c",
    node_id="n",
    seq=1,
    assignment_id="a",
    nonce="n",
    service="web",
    epoch=1,
    counter=7,
    replicas=2,
    phase=Phase.RUN,
)
GOOD = codec.encode(WISH)


@dataclass(frozen=True, kw_only=True)
class Thing:
    name: str
    numbers: tuple[int, ...] = ()
    table: dict[str, str] = field(default_factory=dict)
    inner: Limits | None = None


def decode(data: bytes) -> Assignment:
    return codec.decode(data, Assignment, what="an assignment")


def test_round_trip_and_canonical_form() -> None:
    assert decode(GOOD) == WISH
    assert b" " not in GOOD
    assert codec.encode({"b": 1, "a": {"d": None, "c": True}}) == b'{"a":{"c":true,"d":null},"b":1}'


def test_keys_are_sorted_as_the_module_promises() -> None:
    assert list(json.loads(GOOD)) == sorted(json.loads(GOOD))


def spelled(**changes: Any) -> bytes:
    return json.dumps({**json.loads(GOOD), **changes}, separators=(",", ":"), sort_keys=True).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (spelled(extra=1), "unknown field 'extra'"),
        (GOOD[:-1] + b',"seq":1}', "stands twice"),
        (GOOD.replace(b'"seq":1,', b""), "seq"),
        (GOOD.replace(b",", b", "), "canonical"),
        (GOOD + b"\n", "canonical"),
        (spelled(seq=2**53), "2**53"),
        (spelled(seq=-(2**53)), "2**53"),
        (spelled(seq=1.0), "int"),
        (spelled(seq="1"), "int"),
        (spelled(seq=None), "int"),
        (spelled(phase="explode"), "explode"),
        (spelled(service="\ud800"), "cannot read an assignment"),
        (GOOD.replace(b'"web"', b'"\\u0077eb"'), "canonical"),
        (GOOD.replace(b'"web"', b'"w\xffb"'), "UTF-8"),
        (b"", "cannot read an assignment"),
        (b"[]", "object"),
        (b"[" * 100_000, "cannot read an assignment"),
    ],
)
def test_every_other_spelling_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        decode(data)
    assert "cannot read an assignment" in str(caught.value)
    assert said.lower() in str(caught.value).lower()


def test_nested_unknown_fields_are_found_at_their_place() -> None:
    data = codec.encode(Thing(name="x", inner=Limits(memory=1))).replace(b'"memory":1', b'"memory":1,"memoryx":1')
    with pytest.raises(BadInput, match=r"unknown field 'inner\.memoryx'"):
        codec.decode(data, Thing, what="a thing")


def test_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadInput, match="at most 10 are allowed"):
        codec.decode(GOOD, Assignment, what="an assignment", limit=10)


def test_loose_reading_is_for_answers_only() -> None:
    assert codec.decode_loose(b'{"name": "x", "more": 1}', Thing, what="a thing") == Thing(name="x")
    with pytest.raises(BadInput):
        codec.decode_loose(b"{}", Thing, what="a thing")


def test_plain_data_and_back() -> None:
    check = Check(name="r", kind=CheckKind.HTTP, port=80)
    value = Health(readiness=check)
    assert codec.from_plain(codec.to_plain(value), Health, what="health") == value
    route = Route(port=1, tls=RouteTls(cert="/a", key="/b"))
    assert codec.decode(codec.encode(route), Route, what="a route") == route
    with pytest.raises(BadInput):
        codec.from_plain({"readiness": 3}, Health, what="health")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
THINGS = st.builds(
    Thing,
    name=TEXTS,
    numbers=st.lists(st.integers(-(2**53) + 1, 2**53 - 1), max_size=5).map(tuple),
    table=st.dictionaries(TEXTS, TEXTS, max_size=5),
    inner=st.none() | st.builds(Limits, memory=st.integers(0, 2**53 - 1)),
)


@given(THINGS)
def test_any_value_has_one_encoding(thing: Thing) -> None:
    data = codec.encode(thing)
    assert codec.decode(data, Thing, what="a thing") == thing
    shuffled = replace(thing, table=dict(reversed(thing.table.items())))
    assert codec.encode(shuffled) == data


@given(THINGS, st.integers(0, 200), st.binary(max_size=3))
def test_changed_bytes_are_refused_or_mean_something_else(thing: Thing, place: int, noise: bytes) -> None:
    data = codec.encode(thing)
    changed = data[:place] + noise + data[place + len(noise) :]
    try:
        found = codec.decode(changed, Thing, what="a thing")
    except BadInput:
        return
    assert (found == thing) == (changed == data)
