"""The operator's vault: the value of every secret that this computer set, sealed to the operators' and recovery keys.

One file beside the keys. It is what a value is taken from when a new node must read it too; nodes never see it. Nothing
in it can be read without one of those keys, so a copy of it may lie anywhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tuf.api._payload import Root

from nebh.host import files
from nebh.model.errors import BadInput, Broken, Failed, NotFound, Refused
from nebh.model.secret import SealedFor, key_of
from nebh.signing import roles
from nebh.signing.repository import State
from nebh.signing.seal import open_box, opening_key, public_of, seal, sealing_key
from nebh.signing.statements import Seed, StatementSigner
from nebh.wire import codec

VAULT = "vault.json"
_LIMIT = 256 << 20
_AGENT = b"nebh/vault/v1|"


class NotSealedToIt(BadInput):
    """The vault was not sealed to this key."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One value. set_at: Unix seconds; generate: how it was made (`32 alnum`), "" = a person gave it; boxes: base64 by
    the hex Ed25519 key whose holder opens it."""

    version: int
    set_at: int
    boxes: dict[str, str]
    generate: str = ""


@dataclass(frozen=True, kw_only=True)
class _File:
    cluster_id: str
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, repr=False)
class VaultKey:
    """What opens the vault. owner: hex Ed25519 key; private: 32 raw X25519 bytes. Never printed."""

    owner: str
    private: bytes

    @property
    def public(self) -> str:
        """The hex X25519 key that values for it are sealed to."""
        return public_of(self.private)

    def __repr__(self) -> str:
        return f"VaultKey(owner={self.owner})"


def vault_key(signer: StatementSigner, cluster_id: str) -> VaultKey:
    """Return the key by which a signer's holder opens the vault: its own on the curve's other form, or, where the key
    stays in an ssh-agent, one made of its signature over a text that is signed for nothing else. Raises Failed for an
    agent that signs one text in two ways."""
    if isinstance(signer, Seed):
        return VaultKey(owner=signer.public, private=opening_key(signer.seed))
    text = _AGENT + cluster_id.encode() + b"|" + signer.public.encode()
    first, second = signer.sign_bytes(text), signer.sign_bytes(text)
    if first != second:
        raise Failed(
            "cannot open the vault with this ssh-agent: it signs one text in two ways",
            hint="use a key in a file for this cloud: `nebh key rotate`",
        )
    return VaultKey(owner=signer.public, private=hashlib.sha256(_AGENT + first).digest())


def recipients_of(state: State, own: VaultKey | None) -> dict[str, str]:
    """Return the X25519 keys that values are sealed to, by the Ed25519 keys of all operators and of recovery."""
    root = roles.parse_role(state.roles["root"], Root)
    publics = dict.fromkeys((*roles.keys_of(root, "targets"), *roles.keys_of(root, "root")))
    found = {public: sealing_key(public) for public in publics}
    if own is not None and own.owner in found:
        found[own.owner] = own.public
    return found


class Vault:
    """See above. Each change is on the disk when it returns."""

    def __init__(self, folder: Path, cluster_id: str) -> None:
        """folder: of the cloud on this computer. Raises Broken for a vault that is damaged or another cloud's."""
        self.path = folder / VAULT
        self._cluster_id = cluster_id
        self._entries = self._read()

    def _read(self) -> dict[str, Entry]:
        try:
            data = files.read_bounded(self.path, limit=_LIMIT)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Broken(f"cannot read the vault {self.path}: {error}") from error
        return self._decode(data, str(self.path))

    def _decode(self, data: bytes, what: str) -> dict[str, Entry]:
        hint = "put a copy back, or move it away and set the secrets anew: `nebh secret set`"
        try:
            found = codec.decode(data, _File, what=f"the vault {what}", limit=_LIMIT)
        except BadInput as error:
            raise Broken(error.message, hint=hint) from error
        if found.cluster_id != self._cluster_id:
            raise Broken(f"cannot use the vault {what}: it is of cluster {found.cluster_id}", hint=hint)
        return found.entries

    @property
    def keys(self) -> tuple[str, ...]:
        """The secrets it holds, as `service/name`, sorted."""
        return tuple(sorted(self._entries))

    def entry(self, key: str) -> Entry | None:
        """Return what is known of a value without opening it."""
        return self._entries.get(key)

    def put(
        self,
        *,
        service: str,
        name: str,
        value: bytes,
        version: int,
        now: int,
        recipients: Mapping[str, str],
        generate: str = "",
    ) -> None:
        """Keep a value in the place of an earlier one. now: Unix seconds. Raises BadInput for its size."""
        boxes = {
            owner: base64.b64encode(
                seal(value, public=public, to=self._sealed_for(service, name, version, owner))
            ).decode()
            for owner, public in recipients.items()
        }
        self._entries[key_of(service, name)] = Entry(version=version, set_at=now, boxes=boxes, generate=generate)
        self._save()

    def open(self, service: str, name: str, key: VaultKey) -> bytes:
        """Return a value. Raises NotFound, NotSealedToIt, Refused for a box that was changed."""
        known = self._entries.get(key_of(service, name))
        if known is None:
            raise NotFound(
                f"cannot find the secret {key_of(service, name)} in the vault on this computer",
                hint=f"`nebh secret set {key_of(service, name)}` gives it a new value",
            )
        text = known.boxes.get(key.owner)
        if text is None:
            raise NotSealedToIt(
                f"cannot open the secret {key_of(service, name)}: it was not sealed to the key {key.owner[:16]}",
                hint="open the vault with the key that set it, or by the recovery words: `nebh key recover`",
            )
        try:
            box = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise Broken(f"cannot read the vault {self.path}: a box in it is no base64") from None
        return open_box(box, private=key.private, to=self._sealed_for(service, name, known.version, key.owner))

    def drop(self, key: str) -> None:
        """Forget a value; none is no error."""
        if self._entries.pop(key, None) is not None:
            self._save()

    def reseal(self, key: VaultKey, recipients: Mapping[str, str]) -> tuple[str, ...]:
        """Seal every value that `key` opens to exactly these recipients; return what it could not open. For keys that
        were added, replaced or revoked: who is left out reads no later copy of the file."""
        left: list[str] = []
        fresh = dict(self._entries)
        for name, known in self._entries.items():
            service, _, secret = name.partition("/")
            try:
                value = self.open(service, secret, key)
            except (NotSealedToIt, Refused):
                left.append(name)
                continue
            fresh[name] = replace(
                known,
                boxes={
                    owner: base64.b64encode(
                        seal(value, public=public, to=self._sealed_for(service, secret, known.version, owner))
                    ).decode()
                    for owner, public in recipients.items()
                },
            )
        if fresh != self._entries:
            self._entries = fresh
            self._save()
        return tuple(left)

    def adopt(self, data: bytes, *, what: str) -> tuple[str, ...]:
        """Take the values of a copy of this cloud's vault that are newer than what is here; return their names. Raises
        Broken."""
        taken = []
        for name, other in self._decode(data, what).items():
            known = self._entries.get(name)
            if known is None or known.version < other.version:
                self._entries[name] = other
                taken.append(name)
        if taken:
            self._save()
        return tuple(sorted(taken))

    def _sealed_for(self, service: str, name: str, version: int, owner: str) -> SealedFor:
        return SealedFor(
            cluster_id=self._cluster_id, recipient=f"vault:{owner}", service=service, name=name, version=version
        )

    def _save(self) -> None:
        data = codec.encode(_File(cluster_id=self._cluster_id, entries=self._entries))
        files.write_atomic(self.path, data, mode=0o600)
