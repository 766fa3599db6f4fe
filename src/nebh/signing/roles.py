"""The TUF roles of a cluster as bytes: who signs what, for how long, with `cluster_id` and `signed_at` in each."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from tuf.api._payload import DelegatedRole, Delegations, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from nebh.model.errors import Broken
from nebh.model.rules import NONE, Finding, Rule, decide, demand
from nebh.signing.statements import StatementSigner, keyid_of
from nebh.signing.tuf_keys import TufSigner, tuf_key

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)
DAY = 86_400
LIFETIMES = {"root": 5 * 365 * DAY, "targets": 365 * DAY, "snapshot": 60 * DAY, "timestamp": 3 * DAY}
RELEASES_LIFETIME = 180 * DAY
CI_LIFETIMES = {"targets": 60 * DAY, "snapshot": 7 * DAY}


def lifetime(role: str, *, ci_mode: bool) -> int:
    """Return for how many seconds a role is good once signed. ci_mode: the controller may sign the snapshot."""
    if ci_mode and role in CI_LIFETIMES:
        return CI_LIFETIMES[role]
    return LIFETIMES.get(role, RELEASES_LIFETIME)


def parse_role(data: bytes, kind: type[S]) -> S:
    """Return the body of a role file that was verified before. Raises Broken when it is of another role."""
    body = Metadata[S].from_bytes(data).signed
    if not isinstance(body, kind):
        raise Broken(f"cannot read a role file: it is {body.type}, not {kind.type}")
    return body


def past_half(body: Root | Targets | Snapshot | Timestamp, *, now: int, life: int) -> bool:
    """Tell whether more than half of a role's life is over."""
    return body.expires.timestamp() - now < life / 2


def seal_role(
    body: Root | Targets | Snapshot | Timestamp,
    *,
    signers: Iterable[StatementSigner],
    cluster_id: str,
    version: int,
    now: int,
    life: int,
) -> bytes:
    """Return the signed bytes of a role. now: Unix seconds; life: seconds."""
    sealed = copy.deepcopy(body)
    sealed.version = version
    sealed.expires = datetime.fromtimestamp(now + life, tz=UTC)
    sealed.unrecognized_fields = {"cluster_id": cluster_id, "signed_at": now}
    metadata: Metadata[Any] = Metadata(sealed)
    for signer in signers:
        metadata.sign(TufSigner(signer), append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def set_keys(root: Root, role: str, publics: Iterable[str], *, threshold: int = 1) -> None:
    """Make these hex keys the only ones of a top-level role."""
    for keyid in tuple(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for public in publics:
        root.add_key(tuf_key(public), role)
    root.roles[role].threshold = threshold


def keys_of(root: Root, role: str) -> tuple[str, ...]:
    """Return the hex keys of a top-level role."""
    return tuple(str(root.keys[keyid].keyval["public"]) for keyid in root.roles[role].keyids)


def may_sign(root: Root, targets: Targets, role: str, public: str) -> bool:
    """Tell whether a hex key is one of a role's."""
    keyid = keyid_of(public)
    if role in root.roles:
        return keyid in root.roles[role].keyids
    delegated = (targets.delegations.roles or {}).get(role) if targets.delegations else None
    return delegated is not None and keyid in delegated.keyids


def ci_mode(root: Root) -> bool:
    """Tell whether somebody beside the operators may sign the snapshot."""
    return not set(root.roles["snapshot"].keyids) <= set(root.roles["targets"].keyids)


def delegate(targets: Targets, *, role: str, service: str, publics: Iterable[str], threshold: int = 1) -> None:
    """Let these hex keys, and no others, sign the releases of one service under the name `role` (N3)."""
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    roles = targets.delegations.roles
    assert roles is not None  # never hash bins
    if role not in roles:
        roles[role] = DelegatedRole(role, [], threshold, terminating=True, paths=[f"release/{service}/*"])
    for keyid in tuple(roles[role].keyids):
        targets.revoke_key(keyid, role)
    for public in publics:
        targets.add_key(tuf_key(public), role)
    roles[role].threshold = threshold


def undelegate(targets: Targets, role: str) -> None:
    """Take a release role away."""
    if targets.delegations and targets.delegations.roles and role in targets.delegations.roles:
        for keyid in tuple(targets.delegations.roles[role].keyids):
            targets.revoke_key(keyid, role)
        del targets.delegations.roles[role]


def target_file(path: str, data: bytes) -> TargetFile:
    """Return what targets says of a file."""
    return TargetFile(len(data), {"sha256": hashlib.sha256(data).hexdigest()}, path)


def served_target(path: str, data: bytes) -> str:
    """Return the name under `targets/` by which consistent snapshots serve a file."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{hashlib.sha256(data).hexdigest()}.{name}"


def meta_file(data: bytes, version: int) -> MetaFile:
    """Return what snapshot and timestamp say of a role file."""
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


@dataclass(frozen=True, kw_only=True)
class KeyFacts:
    """A key, hex, and the role it would sign."""

    root: Root
    targets: Targets
    role: str
    public: str


def _is_its_key(facts: KeyFacts) -> Finding | None:
    if may_sign(facts.root, facts.targets, facts.role, facts.public):
        return None
    return Finding(
        reason=f"the key {keyid_of(facts.public)[:8]} is not one of its keys",
        hint="`nebh key list` shows who may sign what; was this key revoked?",
    )


KEY_RULES: tuple[Rule[KeyFacts], ...] = (
    Rule(id="O2.key", description="a role is signed by its own keys alone", check=_is_its_key),
)


def check_may_sign(root: Root, targets: Targets, role: str, public: str, *, disabled: frozenset[str] = NONE) -> None:
    """Raise Refused (O2) unless the key is one of the role's."""
    facts = KeyFacts(root=root, targets=targets, role=role, public=public)
    demand(decide(KEY_RULES, facts, disabled=disabled), verb="sign", what=f"the role {role}")
