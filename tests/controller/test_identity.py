"""Nonces and tokens against a clock in our hand."""

from __future__ import annotations

import pytest

from nebh.controller.identity import NONCE_MS, TOKEN_MS, Caller, Identity, Unidentified
from nebh.model.api import Who

CALLER = Caller(kind=Who.NODE, name="one", key="a" * 64, node_id="1" * 32)


class Time:
    now = 1_000_000


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def identity(time) -> Identity:
    return Identity(now=lambda: time.now)


def test_a_token_names_its_caller_for_15_minutes(identity, time):
    token = identity.token(CALLER)
    assert token.expires_at == time.now + TOKEN_MS
    assert identity.caller(token.token) == CALLER
    time.now += TOKEN_MS - 1
    assert identity.caller(token.token) == CALLER
    time.now += 1
    with pytest.raises(Unidentified) as ended:
        identity.caller(token.token)
    assert ended.value.again


@pytest.mark.parametrize(
    "change", [lambda t: t.replace("node~", "operator~"), lambda t: t[:-1] + "0x", lambda t: "", lambda t: "é" * 80]
)
def test_a_changed_token_is_refused(identity, change):
    with pytest.raises(Unidentified):
        identity.caller(change(identity.token(CALLER).token))


def test_a_token_dies_with_its_controller(identity, time):
    with pytest.raises(Unidentified):
        Identity(now=lambda: time.now).caller(identity.token(CALLER).token)


def test_a_nonce_is_ours_young_and_used_once(identity, time):
    nonce = identity.nonce()
    identity.use_nonce(nonce)
    with pytest.raises(Unidentified):
        identity.use_nonce(nonce)
    late = identity.nonce()
    time.now += NONCE_MS
    with pytest.raises(Unidentified):
        identity.use_nonce(late)
    for foreign in ("", "x", "1.2.3", Identity(now=lambda: time.now).nonce()):
        with pytest.raises(Unidentified):
            identity.use_nonce(foreign)
    time.now += 10 * NONCE_MS
    identity.use_nonce(identity.nonce())
    assert len(identity._used) == 1
