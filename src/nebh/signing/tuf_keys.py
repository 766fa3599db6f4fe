"""Keys as TUF and securesystemslib write them."""

from __future__ import annotations

from securesystemslib.signer._key import Key, SSlibKey
from securesystemslib.signer._signature import Signature
from securesystemslib.signer._signer import SecretsHandler, Signer

from nebh.model.errors import BadInput
from nebh.model.names import is_digest
from nebh.signing.statements import StatementSigner, keyid_of


class TufSigner(Signer):
    """Any of our keys as python-tuf's Signer."""

    def __init__(self, key: StatementSigner) -> None:
        self._key = key

    @property
    def public_key(self) -> Key:
        """The key as TUF writes it."""
        return tuf_key(self._key.public)

    def sign(self, payload: bytes) -> Signature:
        """Return a signature over `payload`."""
        return Signature(keyid_of(self._key.public), self._key.sign_bytes(payload).hex())

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> TufSigner:
        """Part of python-tuf's interface that Nebh has no use for."""
        raise NotImplementedError


def tuf_key(public: str) -> SSlibKey:
    """Return a hex Ed25519 public key as TUF writes it. Raises BadInput."""
    if not is_digest(public):
        raise BadInput(f"cannot use {public!r} as a public key: it is not 64 hex digits")
    return SSlibKey(keyid_of(public), "ed25519", "ed25519", {"public": public})
