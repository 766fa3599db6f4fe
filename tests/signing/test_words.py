"""Recovery words: BIP-39 vectors, our own derivation vector, and every mistake of a hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.errors import BadInput
from nebh.signing import words

VECTORS = {
    "00000000000000000000000000000000": "abandon " * 11 + "about",
    "7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f": "legal winner thank year wave sausage worth useful legal winner thank yellow",
    "80808080808080808080808080808080": "letter advice cage absurd amount doctor acoustic avoid letter advice cage above",
    "ffffffffffffffffffffffffffffffff": "zoo " * 11 + "wrong",
}


@pytest.mark.parametrize(("entropy", "text"), VECTORS.items())
def test_bip39_vectors(entropy, text):
    assert words.to_words(bytes.fromhex(entropy)) == text
    assert words.from_words(text) == bytes.fromhex(entropy)


def test_the_root_key_vector_of_the_documentation():
    key = words.root_key(bytes(16))
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    assert key.seed == HKDF(SHA256(), 32, None, b"nebh/root/v1").derive(bytes(16))
    assert key.seed.hex() == "37f328f40c663451d035ceda12db159b787feb475ffe61ee422de0839fbd9662"
    assert key.public == "10bb8be5d50bec148ef2ca9d34576b2bda5128fda0a646acba152177c57cbb2a"


@given(st.binary(min_size=16, max_size=16))
def test_words_round_trip_and_four_letters_are_enough(entropy):
    text = words.to_words(entropy)
    assert words.from_words(text.upper()) == entropy
    assert words.from_words(" ".join(word[:4] for word in text.split())) == entropy


@pytest.mark.parametrize("text", ["", "abandon " * 12, "abandon " * 11, "zebra zebra", "abandon " * 11 + "abuot"])
def test_mistakes_are_named(text):
    with pytest.raises(BadInput):
        words.from_words(text)


def test_the_list_is_the_standard_one():
    import hashlib

    joined = "".join(word + "\n" for word in words.word_list())
    assert (
        hashlib.sha256(joined.encode()).hexdigest()
        == "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
    )
