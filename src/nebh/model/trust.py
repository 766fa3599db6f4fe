"""What a verifier learnt from signed metadata, and what a node has accepted so far: the values N0-N16 decide on."""

from __future__ import annotations

from dataclasses import dataclass, field

from nebh.model.node import NodeList, Settings
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.secret import SecretList


@dataclass(frozen=True, kw_only=True)
class Delegation:
    """One delegated role as top-level targets lists it, and what that role's own file lists."""

    role: str
    paths: tuple[str, ...]
    terminating: bool
    keyids: tuple[str, ...]
    threshold: int
    own_delegations: int
    listed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrustedSet:
    """One consistent set of metadata from one source, verified from the pinned root (N1 held, or it would not exist).

    versions / digests: by role name (root, targets, snapshot, timestamp, rel-web): version, hex SHA-256 of the bytes.
    top_level: target paths that top-level targets itself lists. operator_keys: hex Ed25519 keys of role targets.
    online_keys: keyids of snapshot and timestamp, joined: a change resets those floors. expires: Unix seconds of the
    role that expires first, by role. newest_signed_at: Unix seconds, over root, targets and the policies read.
    cluster_ids: every `cluster_id` met in any body (must be exactly ours, N0). secrets: signed lists by `service/name`.
    """

    source: str
    versions: dict[str, int]
    digests: dict[str, str]
    expires: dict[str, int]
    cluster_ids: tuple[str, ...]
    top_level: tuple[str, ...]
    delegations: tuple[Delegation, ...]
    operator_keys: tuple[str, ...]
    online_keys: str
    newest_signed_at: int
    nodes: NodeList
    settings: Settings
    policies: dict[str, Policy]
    releases: dict[str, Release]
    release_digests: dict[str, str]
    secrets: dict[str, SecretList] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AcceptedRelease:
    """A release this node accepted: hex SHA-256 of its target bytes; committed_at: Unix ms, 0 = never committed;
    rollback_until: as the release says, Unix seconds, 0 = not shortened."""

    service: str
    epoch: int
    counter: int
    digest: str
    accepted_at: int
    committed_at: int = 0
    rollback_until: int = 0


@dataclass(frozen=True, kw_only=True)
class AcceptedState:
    """The node's own floors. roles: version and digest by role name; sources: by source name, its snapshot and
    timestamp versions; seq: newest assignment; nonces: orders already carried out; newest_signed_at: Unix seconds."""

    cluster_id: str
    node_id: str
    node_name: str
    roles: dict[str, tuple[int, str]] = field(default_factory=dict)
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    online_keys: str = ""
    seq: int = 0
    nonces: frozenset[str] = frozenset()
    newest_signed_at: int = 0
    releases: tuple[AcceptedRelease, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision with its reason. ok: rule, reason and hint are empty."""

    ok: bool
    rule: str = ""
    reason: str = ""
    hint: str = ""
    alarm: bool = False
