"""Read everything a node decides on out of one verified TrustStore: the facts of N0-N3 as values."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TypeVar

from tuf.api._payload import Root, Snapshot, Targets, Timestamp
from tuf.api.metadata import Metadata

from nebh.model.errors import Refused
from nebh.model.node import NodeList, Settings
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.secret import SecretList, key_of
from nebh.model.trust import Delegation, TrustedSet
from nebh.signing.trust_store import Expired, TrustStore
from nebh.wire import codec

NODES, SETTINGS = "cluster/nodes.json", "cluster/settings.json"
_POLICY = re.compile(r"policy/([a-z0-9-]{1,32})\.json\Z")
_SECRET = re.compile(r"secrets/([a-z0-9-]{1,32})/([a-z0-9-]{1,32})\.json\Z")
_ROLE = re.compile(r"rel-([a-z0-9-]{1,32})(?:\.[1-9][0-9]{0,8})?\Z")
TARGETS_LIMIT = 4 << 20
T = TypeVar("T")
S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass
class _Found:
    """What was read so far."""

    versions: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    expires: dict[str, int] = field(default_factory=dict)
    cluster_ids: set[str] = field(default_factory=set)
    signed_at: list[int] = field(default_factory=lambda: [0])
    delegations: list[Delegation] = field(default_factory=list)
    release_digests: dict[str, str] = field(default_factory=dict)


def policy_path(service: str) -> str:
    """Return the target path of a service's policy."""
    return f"policy/{service}.json"


def secret_path(service: str, name: str) -> str:
    """Return the target path of a secret's list."""
    return f"secrets/{service}/{name}.json"


def release_path(service: str, counter: int) -> str:
    """Return the target path of a release."""
    return f"release/{service}/{counter}.json"


def service_of(role: str) -> str:
    """Return the service whose releases a role signs, "" for other roles. `rel-web.2` replaced `rel-web` after its
    key was revoked: a new name starts at version 1, whatever a thief signed under the old one."""
    match = _ROLE.match(role)
    return match.group(1) if match else ""


def read_trusted_set(store: TrustStore, *, source: str, wanted: tuple[str, ...] | None = ()) -> TrustedSet:
    """Return what a refreshed store holds; refreshes it when that has not happened.

    Nodes, settings, policies and lists of secrets are read always; of releases those in `wanted` that are listed, None = every listed
    one. `releases` and `release_digests` have target paths as keys (`release/web/7.json`), `policies` service names;
    `release_digests` holds every listed release, read or not. A `rel-` role that expired has version and releases
    left out and `expires` 0, so that one idle CI does not stop the other services; a wanted release of it raises.
    Raises Refused (N0, N1, N2), BadInput for target files that break the closed schema, Unreachable.
    """
    store.info(SETTINGS)
    found = _Found()
    root = _note(found, store, "root", Root, operators=True)
    _note(found, store, "timestamp", Timestamp)
    _note(found, store, "snapshot", Snapshot)
    targets = _note(found, store, "targets", Targets, operators=True)
    _read_delegations(found, store, targets, wanted=wanted)
    nodes = _read(found, store, NODES, NodeList)
    settings = _read(found, store, SETTINGS, Settings)
    policies = {}
    for path in sorted(targets.targets):
        match = _POLICY.match(path)
        if match:
            policies[match.group(1)] = policy = _read(found, store, path, Policy)
            found.signed_at.append(policy.signed_at)
    secrets = {}
    for path in sorted(targets.targets):
        match = _SECRET.match(path)
        if match:
            secrets[key_of(*match.groups())] = listed = _read(found, store, path, SecretList)
            found.signed_at.append(listed.signed_at)
    paths = [path for path in found.release_digests if wanted is None or path in wanted]
    releases = {path: _read(found, store, path, Release) for path in paths}
    return TrustedSet(
        source=source,
        versions=found.versions,
        digests=found.digests,
        expires=found.expires,
        cluster_ids=tuple(sorted(found.cluster_ids)),
        top_level=tuple(sorted(targets.targets)),
        delegations=tuple(found.delegations),
        operator_keys=tuple(sorted(str(root.keys[keyid].keyval["public"]) for keyid in root.roles["targets"].keyids)),
        online_keys=",".join(
            sorted(f"{role}:{k}" for role in ("snapshot", "timestamp") for k in root.roles[role].keyids)
        ),
        newest_signed_at=max(found.signed_at),
        nodes=nodes,
        settings=settings,
        policies=policies,
        releases=releases,
        release_digests=found.release_digests,
        secrets=secrets,
    )


def _note(found: _Found, store: TrustStore, role: str, kind: type[S], *, operators: bool = False) -> S:
    """Record a role's facts and return its body. Only operators' times raise the clock's floor (N13)."""
    data = store.stored(role)
    signed = Metadata[S].from_bytes(data).signed
    assert isinstance(signed, kind)  # python-tuf verified it as this role
    found.versions[role] = signed.version
    found.digests[role] = hashlib.sha256(data).hexdigest()
    found.expires[role] = int(signed.expires.timestamp())
    found.cluster_ids.add(str(signed.unrecognized_fields.get("cluster_id", "")))
    signed_at = signed.unrecognized_fields.get("signed_at", 0)
    if operators and isinstance(signed_at, int):
        found.signed_at.append(signed_at)
    return signed


def _read_delegations(found: _Found, store: TrustStore, targets: Targets, *, wanted: tuple[str, ...] | None) -> None:
    if targets.delegations is None:
        return
    if targets.delegations.roles is None:
        raise Refused("cannot accept targets: it delegates by hash bins", rule="N3")
    for name, role in targets.delegations.roles.items():
        service = service_of(name)
        body = None
        if service and tuple(role.paths or ()) == (f"release/{service}/*",):
            body = _load_role(found, store, name, wanted=wanted)
        own = body.delegations if body is not None else None
        found.delegations.append(
            Delegation(
                role=name,
                paths=tuple(role.paths or ()) + tuple(f"hash:{one}" for one in role.path_hash_prefixes or ()),
                terminating=role.terminating,
                keyids=tuple(sorted(role.keyids)),
                threshold=role.threshold,
                own_delegations=0 if own is None else len(own.roles or {}) + (own.succinct_roles is not None),
                listed=tuple(sorted(body.targets)) if body is not None else (),
            )
        )
        for path, info in sorted(body.targets.items()) if body is not None else ():
            if path.startswith(f"release/{service}/"):
                found.release_digests[path] = str(info.hashes.get("sha256", ""))


def _load_role(found: _Found, store: TrustStore, name: str, *, wanted: tuple[str, ...] | None) -> Targets | None:
    """Return a release role's body, None when it expired and nothing of it is wanted."""
    prefix = f"release/{service_of(name)}/"
    try:
        store.info(f"{prefix}-")
    except Expired:
        if any(path.startswith(prefix) for path in wanted or ()):
            raise
        found.expires[name] = 0
        return None
    return _note(found, store, name, Targets)


def _read(found: _Found, store: TrustStore, path: str, kind: type[T]) -> T:
    data = store.read(path, limit=TARGETS_LIMIT)
    value = codec.decode(data, kind, what=path, limit=TARGETS_LIMIT)
    found.cluster_ids.add(str(getattr(value, "cluster_id", "")))
    return value
