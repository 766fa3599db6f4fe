"""Operator, CI and controller keys: an Ed25519 key in a file (PKCS8 PEM, passphrase optional) or in an ssh-agent.

Lean: every command signs in with a key, so their TUF form is apart, in `tuf_keys`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nebh.host import files, ssh_agent
from nebh.model.errors import BadInput, Failed, NotFound
from nebh.signing.statements import Seed, StatementSigner, keyid_of, verify_raw

AskPassphrase = Callable[[], str]
AGENT_PREFIX = "ssh-agent:"


class WrongPassphrase(BadInput):
    """The passphrase does not open the key file."""


@dataclass(frozen=True)
class AgentKey:
    """A key that an ssh-agent holds: its socket and hex public key."""

    socket: Path
    public: str

    def sign_bytes(self, data: bytes) -> bytes:
        """Return the raw signature over `data`. Raises Unreachable, Failed."""
        return ssh_agent.sign_ed25519(self.socket, public=self.public, data=data)


def generate_key() -> Seed:
    """Return a new key."""
    return Seed(os.urandom(32))


def save_key(path: Path, key: Seed, *, passphrase: str = "") -> None:
    """Write `key` as PKCS8 PEM, 0600, in one step; an existing file is never replaced. Raises BadInput."""
    if path.exists():
        raise BadInput(f"cannot write the key {path}: it exists", hint="move the old key away first")
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    pem = Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    files.write_atomic(path, pem, mode=0o600)


def load_key(path: Path, *, ask: AskPassphrase | None = None) -> Seed:
    """Return the key in a PEM file; `ask` is called only when it is encrypted.

    Raises NotFound, WrongPassphrase, BadInput (not an Ed25519 key, a passphrase is needed and nobody can be asked).
    """
    try:
        pem = files.read_bounded(path, limit=64 * 1024)
    except FileNotFoundError as error:
        raise NotFound(
            f"cannot read the key {path}: no such file", hint="lost it? `nebh key recover` makes a new one"
        ) from error
    except OSError as error:
        raise BadInput(f"cannot read the key {path}: {error}") from error
    try:
        return _seed(path, pem, None)
    except TypeError:
        # cryptography's way to say "encrypted, and no password was given".
        if ask is None:
            raise BadInput(f"cannot open the key {path}: it has a passphrase and nobody can be asked") from None
    return _seed(path, pem, ask().encode())


def _seed(path: Path, pem: bytes, passphrase: bytes | None) -> Seed:
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except ValueError as error:
        if passphrase is not None:
            raise WrongPassphrase(f"cannot open the key {path}: wrong passphrase", hint="try again") from error
        raise BadInput(f"cannot read the key {path}: it is not a PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"cannot use the key {path}: it is not Ed25519")
    return Seed(key.private_bytes_raw())


def agent_key(public: str, *, socket: str) -> AgentKey:
    """Return the ssh-agent's key with this hex public key ("" = its only one). Raises NotFound, BadInput, Unreachable.

    socket: the value of SSH_AUTH_SOCK.
    """
    if not socket:
        raise NotFound("cannot use the ssh-agent: SSH_AUTH_SOCK is not set", hint='start one: eval "$(ssh-agent)"')
    held = ssh_agent.list_ed25519(Path(socket))
    if public:
        if not any(one == public for one, _ in held):
            raise NotFound(f"cannot use the key {public[:16]}: the ssh-agent does not hold it", hint="ssh-add KEY")
        return AgentKey(Path(socket), public)
    if len(held) != 1:
        raise BadInput(
            f"cannot choose a key: the ssh-agent holds {len(held)} Ed25519 keys", hint="name its public key in hex"
        )
    return AgentKey(Path(socket), held[0][0])


def open_key(text: str, *, ask: AskPassphrase | None = None, agent_socket: str = "") -> StatementSigner:
    """Return the key that `text` names: a path, or `ssh-agent:<hex public key>` (`ssh-agent:` = its only key)."""
    if text.startswith(AGENT_PREFIX):
        return agent_key(text.removeprefix(AGENT_PREFIX), socket=agent_socket)
    return load_key(Path(text).expanduser(), ask=ask)


def check_signs(key: StatementSigner) -> None:
    """Sign a throw-away message, so that a key that cannot sign fails before anything is composed. Raises Failed."""
    probe = b"nebh key probe"
    if not verify_raw(public=key.public, signature=key.sign_bytes(probe), data=probe):
        raise Failed(f"cannot sign with the key {key.public[:16]}: its signature does not verify")


@functools.cache
def short(public: str) -> str:
    """Return the eight hex digits by which a person tells keys apart."""
    return keyid_of(public)[:8]
