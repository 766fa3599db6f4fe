"""The recovery key as twelve words (BIP-39 English, 128 bits) and the root key that comes from them.

root seed = HKDF-SHA256(entropy, no salt, info `nebh/root/v1`, 32 bytes), an Ed25519 private key.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
from importlib import resources

from nebh.model.errors import BadInput
from nebh.signing.statements import Seed

ENTROPY = 16
WORDS = 12
INFO = b"nebh/root/v1"


@functools.cache
def word_list() -> tuple[str, ...]:
    """Return the 2048 words in order."""
    text = resources.files("nebh.signing").joinpath("bip39_english.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


def to_words(entropy: bytes) -> str:
    """Return 16 bytes as twelve words separated by spaces."""
    if len(entropy) != ENTROPY:
        raise BadInput(f"cannot write {len(entropy)} bytes as words: {ENTROPY} are needed")
    checksum = hashlib.sha256(entropy).digest()[0] >> 4
    number = int.from_bytes(entropy, "big") << 4 | checksum
    words = word_list()
    return " ".join(words[number >> shift & 0x7FF] for shift in range(11 * (WORDS - 1), -1, -11))


def from_words(text: str) -> bytes:
    """Return the 16 bytes behind twelve words; case and white space do not matter, four letters of a word are
    enough. Raises BadInput that names the word that is wrong."""
    given = text.lower().split()
    if len(given) != WORDS:
        raise BadInput(f"cannot read the recovery words: {len(given)} words, not {WORDS}")
    number = 0
    for position, word in enumerate(given, start=1):
        number = number << 11 | _index(word, position)
    entropy = (number >> 4).to_bytes(ENTROPY, "big")
    if hashlib.sha256(entropy).digest()[0] >> 4 != number & 0xF:
        raise BadInput("cannot read the recovery words: they do not belong together", hint="check their order")
    return entropy


def _index(word: str, position: int) -> int:
    words = word_list()
    if word in words:
        return words.index(word)
    matches = [index for index, known in enumerate(words) if len(word) >= 4 and known.startswith(word)]
    if len(matches) != 1:
        raise BadInput(
            f"cannot read the recovery words: word {position} ({word!r}) is not in the list",
            hint="the words are English and lower case, from the BIP-39 list; four letters are enough",
        )
    return matches[0]


def root_key(entropy: bytes) -> Seed:
    """Return the recovery key of the words' 16 bytes."""
    return Seed(_hkdf(entropy, INFO))


def _hkdf(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt, 32 bytes: one block of the expand step."""
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
