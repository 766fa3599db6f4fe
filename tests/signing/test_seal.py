"""Sealed boxes: the standard's own steps, done here with other parts, read and write the same bytes."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.errors import BadInput, Refused
from nebh.model.secret import MAX_VALUE, SealedFor
from nebh.signing.node_keys import ensure_node_keys, load_seed
from nebh.signing.seal import OVERHEAD, box_of, open_box, opening_key, public_of, seal, sealing_key
from nebh.signing.statements import Seed

PRIVATE = bytes(range(32))
PUBLIC = public_of(PRIVATE)
FOR = SealedFor(cluster_id="c" * 32, recipient="n" * 64, service="web", name="db-password", version=3)


# ------------------------------------------------------------------------- RFC 9180 once more, step by step, base mode

KEM_SUITE, SUITE = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"


def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + secret, hashlib.sha256).digest()


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    full, block, done = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.new(key, block + full + bytes([number]), hashlib.sha256).digest()
        done += block
    return done[:length]


def schedule(shared: bytes, enc: bytes, receiver: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    secret = expand(KEM_SUITE, extract(KEM_SUITE, b"", b"eae_prk", shared), b"shared_secret", enc + receiver, 32)
    context = b"\0" + extract(SUITE, b"", b"psk_id_hash", b"") + extract(SUITE, b"", b"info_hash", info)
    key = extract(SUITE, secret, b"secret", b"")
    return AESGCM(expand(SUITE, key, b"key", context, 32)), expand(SUITE, key, b"base_nonce", context, 12)


def seal_by_hand(value: bytes, *, ephemeral: bytes, receiver: bytes, info: bytes, aad: bytes = b"") -> bytes:
    own = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = own.public_key().public_bytes_raw()
    cipher, nonce = schedule(own.exchange(X25519PublicKey.from_public_bytes(receiver)), enc, receiver, info)
    return enc + cipher.encrypt(nonce, value, aad)


def open_by_hand(box: bytes, *, private: bytes, info: bytes) -> bytes:
    own = X25519PrivateKey.from_private_bytes(private)
    enc, receiver = box[:32], own.public_key().public_bytes_raw()
    cipher, nonce = schedule(own.exchange(X25519PublicKey.from_public_bytes(enc)), enc, receiver, info)
    return cipher.decrypt(nonce, box[32:], b"")


def test_the_steps_by_hand_are_those_of_a_published_vector():
    """BoringSSL's vector for this suite (the RFC prints none)."""
    made = seal_by_hand(
        bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479"),
        ephemeral=bytes.fromhex("28e212563a8b6f068af7ff17400ff1baf23612b7a738bbaf5dfb321b2b5b431a"),
        receiver=bytes.fromhex("ac66bae9ffa270cf4a89ed9f274e30c0456babae2572aaaf002ff0d8884ab018"),
        info=b"Ode on a Grecian Urn",
        aad=b"Count-0",
    )
    assert made[32:].hex() == (
        "23ded2d5d90ea89d975dac4792b297240f194952d7421aacbff0474100052b6bb8aa58d18ef6c42b6960e2e28f"
    )


def test_our_boxes_are_the_standards():
    assert FOR.info == b"nebh/v1|" + b"c" * 32 + b"|" + b"n" * 64 + b"|web|db-password|3"
    box = seal(b"hunter2", public=PUBLIC, to=FOR)
    assert open_by_hand(box, private=PRIVATE, info=FOR.info) == b"hunter2"
    theirs = seal_by_hand(b"hunter2", ephemeral=b"e" * 32, receiver=bytes.fromhex(PUBLIC), info=FOR.info)
    assert open_box(theirs, private=PRIVATE, to=FOR) == b"hunter2"


def test_a_box_of_today_is_opened_for_ever():
    """Made once by the steps above: no later version may read it otherwise."""
    box = bytes.fromhex(KEPT)
    assert open_box(box, private=PRIVATE, to=FOR) == b"correct horse battery staple"
    assert box_of(box).bytes == len(box) == len(b"correct horse battery staple") + OVERHEAD
    assert box_of(box).digest == hashlib.sha256(box).hexdigest()


# ------------------------------------------------------------------------------------------------------------ refusals

OTHERS = [
    replace(FOR, cluster_id="d" * 32),
    replace(FOR, recipient="m" * 64),
    replace(FOR, service="shop"),
    replace(FOR, name="db-passwor"),
    replace(FOR, version=2),
    replace(FOR, version=33),
]


@pytest.mark.parametrize("other", OTHERS, ids=["cluster", "node", "service", "name", "older", "newer"])
def test_a_box_opens_for_what_it_was_sealed_for_alone(other):
    box = seal(b"hunter2", public=PUBLIC, to=other)
    with pytest.raises(Refused) as caught:
        open_box(box, private=PRIVATE, to=FOR)
    assert caught.value.rule == "N11"
    assert "hunter2" not in str(caught.value)
    assert open_box(box, private=PRIVATE, to=other) == b"hunter2"


def test_a_box_of_another_key():
    box = seal(b"hunter2", public=public_of(b"x" * 32), to=FOR)
    with pytest.raises(Refused, match="not sealed to this key") as caught:
        open_box(box, private=PRIVATE, to=FOR)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("size", [0, 1, 31, 32, 47, 48, 54])
def test_a_truncated_box(size):
    box = seal(b"hunter2", public=PUBLIC, to=FOR)
    with pytest.raises(Refused) as caught:
        open_box(box[:size], private=PRIVATE, to=FOR)
    assert caught.value.rule == "N11"


def test_every_bit_of_a_box_counts():
    box = seal(b"x", public=PUBLIC, to=FOR)
    for place in range(len(box)):
        for bit in (1, 0x80) if place != 31 else (1,):  # X25519 ignores the topmost bit, and the tag then covers it
            changed = bytearray(box)
            changed[place] ^= bit
            with pytest.raises(Refused):
                open_box(bytes(changed), private=PRIVATE, to=FOR)


def test_what_cannot_be_sealed():
    for value in (b"", b"x" * (MAX_VALUE + 1)):
        with pytest.raises(BadInput, match="1 to 65536"):
            seal(value, public=PUBLIC, to=FOR)
    for key in ("", "00" * 31, "0" * 64, "G" * 64):
        with pytest.raises(BadInput, match="no X25519 key"):
            seal(b"x", public=key, to=FOR)
    with pytest.raises(ValueError, match="bar"):
        _ = replace(FOR, service="web|x").info


@given(st.binary(min_size=1, max_size=300))
def test_what_goes_in_comes_out(value):
    box = seal(value, public=PUBLIC, to=FOR)
    assert value not in box or len(value) < 4
    assert open_box(box, private=PRIVATE, to=FOR) == value
    assert seal(value, public=PUBLIC, to=FOR) != box


def test_the_nodes_own_key_opens(tmp_path):
    keys = ensure_node_keys(tmp_path)
    box = seal(b"hunter2", public=keys.seal_pk, to=FOR)
    assert open_box(box, private=load_seed(tmp_path / "seal.key").seed, to=FOR) == b"hunter2"


@given(st.binary(min_size=32, max_size=32))
def test_what_is_sealed_to_a_signing_key_its_seed_opens(seed):
    assert public_of(opening_key(seed)) == sealing_key(Seed(seed).public)


def test_the_conversion_is_that_of_others():
    """libsodium's test of crypto_sign_ed25519_pk_to_curve25519."""
    seed = bytes.fromhex("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee")
    assert Seed(seed).public == "b5076a8474a832daee4dd5b4040983b6623b5f344aca57d4d6ee4baf3f259e6e"
    assert sealing_key(Seed(seed).public) == "f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50"
    opened = bytearray(opening_key(seed))
    opened[0] &= 248
    opened[31] = opened[31] & 127 | 64
    assert opened.hex() == "8052030376d47112be7f73ed7a019293dd12ad910b654455798b4667d73de166"


def test_keys_that_cannot_be_sealed_to():
    one = (1).to_bytes(32, "little").hex()
    for key in (one, "00" * 32, "ff" * 32, "short"):
        with pytest.raises(BadInput, match="cannot seal to"):
            sealing_key(key)


def test_no_two_boxes_share_a_key():
    assert len({seal(b"x", public=PUBLIC, to=FOR)[:32] for _ in range(50)}) == 50


KEPT = (
    "3286894cd2845a6db6a28fbf0677605f80e5a62385bf4e10a790ae5fde36736b4cb08694b217"
    "1238102f810c74d3eac8d5b793615643fddb83eb85d2df665b46b575e99bdba8a9097d5fe2be"
)
