"""What signing builds upon and what it makes: a verified State, a Publication, and the Draft between the two."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuf.api._payload import Root, Snapshot, Targets, Timestamp

from nebh.model.errors import Refused
from nebh.model.trust import TrustedSet
from nebh.signing import roles
from nebh.signing.statements import StatementSigner
from nebh.signing.trust_store import Fetch, TrustStore, role_of
from nebh.signing.trusted_set import TARGETS_LIMIT, read_trusted_set, service_of

RAN_AHEAD = 1 << 40


@dataclass(frozen=True, kw_only=True)
class State:
    """One verified set: role files by role name, the bytes of every top-level target file by path."""

    trusted: TrustedSet
    roles: dict[str, bytes]
    files: dict[str, bytes]

    @property
    def cluster_id(self) -> str:
        """The cluster it is of."""
        return self.trusted.settings.cluster_id


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Files to publish. base: versions of the roles it was built upon ({} for a new cluster), to compare and swap.

    metadata: file names as served (`7.targets.json`, `timestamp.json`); targets: names below `targets/` as served
    (`policy/<sha256>.web.json`). A CI key's publication has neither snapshot nor timestamp (`seal_publication`).
    """

    cluster_id: str
    base: dict[str, int]
    metadata: dict[str, bytes] = field(default_factory=dict)
    targets: dict[str, bytes] = field(default_factory=dict)


def read_state(store: TrustStore, *, source: str = "controller", wanted: tuple[str, ...] | None = ()) -> State:
    """Return everything signing builds upon, verified. `wanted`: release files to read, as in read_trusted_set."""
    trusted = read_trusted_set(store, source=source, wanted=wanted)
    return State(
        trusted=trusted,
        roles={role: store.stored(role) for role in trusted.versions},
        files={path: store.read(path, limit=TARGETS_LIMIT) for path in trusted.top_level},
    )


class Draft:
    """A State being changed; `finish` signs exactly the roles that were touched, then snapshot and timestamp."""

    def __init__(self, *, cluster_id: str, root: Root, targets: Targets, base: State | None, now: int) -> None:
        self.cluster_id = cluster_id
        self.root = root
        self.targets = targets
        self.now = now
        self.touched: set[str] = set()
        self.releases: dict[str, Targets] = {}
        self._versions = dict(base.trusted.versions) if base else {}
        self.contents: dict[str, bytes] = {}
        self._files: dict[str, bytes] = {}
        self._meta = dict(roles.parse_role(base.roles["snapshot"], Snapshot).meta) if base else {}
        for role, data in base.roles.items() if base else ():
            if service_of(role):
                self.releases[role] = roles.parse_role(data, Targets)
        delegated = (targets.delegations.roles or {}) if targets.delegations else {}
        self._unread = frozenset(delegated) - frozenset(self.releases)

    @classmethod
    def of(cls, state: State, *, now: int) -> Draft:
        """Return a draft without changes."""
        return cls(
            cluster_id=state.cluster_id,
            root=roles.parse_role(state.roles["root"], Root),
            targets=roles.parse_role(state.roles["targets"], Targets),
            base=state,
            now=now,
        )

    def release_role(self, service: str) -> str:
        """Return the role that signs a service's releases now, "" when there is none."""
        delegated = (self.targets.delegations.roles or {}) if self.targets.delegations else {}
        return next((name for name in delegated if service_of(name) == service), "")

    def put(self, path: str, data: bytes, *, role: str = "targets") -> None:
        """List a file under a role; nothing is touched when the same bytes are listed already."""
        body = self._body(role)
        info = roles.target_file(path, data)
        if body.targets.get(path) != info:
            body.targets[path] = info
            self.contents[path] = data
            self._files[roles.served_target(path, data)] = data
            self.touched.add(role)

    def drop(self, path: str, *, role: str = "targets") -> None:
        """List a file no longer."""
        if self._body(role).targets.pop(path, None) is not None:
            self.touched.add(role)

    def delegate(self, service: str, publics: tuple[str, ...], *, fresh: bool = False) -> str:
        """Let these keys sign a service's releases and return the role. fresh: under a new name, with the old list."""
        old = self.release_role(service)
        role = old if old and not fresh else self._free_role(service)
        if old and old != role:
            self.releases[role] = self.releases.pop(old)
            roles.undelegate(self.targets, old)
        roles.delegate(self.targets, role=role, service=service, publics=publics)
        self._body(role)
        self.touched |= {"targets", role}
        return role

    def undelegate(self, service: str) -> None:
        """Take a service's releases and the right to sign them away."""
        role = self.release_role(service)
        if role:
            roles.undelegate(self.targets, role)
            self.releases.pop(role, None)
            self.touched.discard(role)
            self.touched.add("targets")

    def touch_stale(self, key: StatementSigner) -> None:
        """Touch every role of this key that is past half of its life; a role without it cannot be renewed here."""
        mode = roles.ci_mode(self.root)
        for role, body in {"targets": self.targets, **self.releases}.items():
            life = roles.lifetime(role, ci_mode=mode)
            if roles.past_half(body, now=self.now, life=life) and self.may_sign(role, key):
                self.touched.add(role)

    def may_sign(self, role: str, key: StatementSigner) -> bool:
        """Tell whether the key is one of the role's, as the draft has it."""
        return roles.may_sign(self.root, self.targets, role, key.public)

    def finish(
        self,
        key: StatementSigner,
        *,
        root_signers: tuple[StatementSigner, ...] = (),
        others: tuple[StatementSigner, ...] = (),
    ) -> Publication:
        """Return the files to publish, signed by `key` (and `others` where a role is not the key's own).

        root_signers: keys for a touched root. Raises Refused (O2) when a touched role has none of the keys.
        """
        base = dict(self._versions)
        metadata: dict[str, bytes] = {}
        if "root" in self.touched:
            metadata.update(self._seal("root", self.root, root_signers))
        for role in sorted(self.touched - {"root", "targets", "snapshot", "timestamp"}):
            metadata.update(self._seal_listed(role, self.releases[role], self._signer(role, (key, *others))))
        if "targets" in self.touched:
            metadata.update(self._seal_listed("targets", self.targets, self._signer("targets", (key, *others))))
        if self.may_sign("snapshot", key):
            metadata.update(self._seal_online(self._signer("snapshot", (key, *others))))
        return Publication(cluster_id=self.cluster_id, base=base, metadata=metadata, targets=dict(self._files))

    def adopt(self, metadata: dict[str, bytes]) -> Draft:
        """Take release roles that somebody else signed into the next snapshot, unverified."""
        for name, data in metadata.items():
            role = role_of(name)
            if service_of(role):
                self.releases[role] = roles.parse_role(data, Targets)
                self._versions[role] = self.releases[role].version
                self._meta[f"{role}.json"] = roles.meta_file(data, self.releases[role].version)
        return self

    def _body(self, role: str) -> Targets:
        if role == "targets":
            return self.targets
        if role in self._unread:
            raise Refused(
                f"cannot change the role {role}: it expired, and what it lists is not known",
                rule="N1",
                hint="run `nebh trust renew` with an operator key",
            )
        if role not in self.releases:
            self.releases[role] = Targets()
        return self.releases[role]

    def former_roles(self, service: str) -> int:
        """Return under how many names releases of a service were signed so far: snapshots never forget one."""
        names = {name.removesuffix(".json") for name in self._meta}
        return sum(1 for name in names if service_of(name) == service)

    def _free_role(self, service: str) -> str:
        names = [f"rel-{service}", *(f"rel-{service}.{number}" for number in range(2, 1000))]
        # A name once in the snapshot keeps its version floor for ever: start a new one.
        return next(name for name in names if f"{name}.json" not in self._meta)

    def _signer(self, role: str, keys: tuple[StatementSigner, ...]) -> StatementSigner:
        for key in keys:
            if self.may_sign(role, key):
                return key
        roles.check_may_sign(self.root, self.targets, role, keys[0].public)
        return keys[0]

    def restart_online(self) -> None:
        """Let versions of online roles that ran ahead begin again, at Unix time: above every honest version, below
        what counts as run ahead. Only together with other keys for those roles: python-tuf then forgets the floor."""
        for role in ("snapshot", "timestamp"):
            if self._versions.get(role, 0) > RAN_AHEAD:
                self._versions[role] = self.now

    def _seal(
        self, role: str, body: Root | Targets | Snapshot | Timestamp, signers: tuple[StatementSigner, ...]
    ) -> dict[str, bytes]:
        # A controller may renew the timestamp while an operator reads a difference: leave that number free, because
        # nodes that took it would take no other timestamp of the same number.
        step = 2 if role == "timestamp" and role in self._versions else 1
        version = self._versions.get(role, 0) + step
        self._versions[role] = version
        data = roles.seal_role(
            body,
            signers=signers,
            cluster_id=self.cluster_id,
            version=version,
            now=self.now,
            life=roles.lifetime(role, ci_mode=roles.ci_mode(self.root)),
        )
        return {"timestamp.json" if role == "timestamp" else f"{version}.{role}.json": data}

    def _seal_listed(self, role: str, body: Targets, signer: StatementSigner) -> dict[str, bytes]:
        made = self._seal(role, body, (signer,))
        self._meta[f"{role}.json"] = roles.meta_file(next(iter(made.values())), self._versions[role])
        return made

    def _seal_online(self, signer: StatementSigner) -> dict[str, bytes]:
        made = self._seal("snapshot", Snapshot(meta=dict(self._meta)), (signer,))
        info = roles.meta_file(next(iter(made.values())), self._versions["snapshot"])
        return {**made, **self._seal("timestamp", Timestamp(snapshot_meta=info), (signer,))}


def snapshot_of(publication: Publication) -> int:
    """Return the version of the snapshot that a publication brings; a CI key's brings the next one."""
    made = [name.partition(".")[0] for name in publication.metadata if role_of(name) == "snapshot"]
    return int(made[0]) if made else publication.base.get("snapshot", 0) + 1


def overlay(publication: Publication, fetch: Fetch) -> Fetch:
    """Return a Fetch that sees the publication on top of what is published, to verify before it is stored."""

    def look(name: str, limit: int) -> bytes | None:
        folder, _, rest = name.partition("/")
        held = (publication.metadata if folder == "metadata" else publication.targets).get(rest)
        return held[: limit + 1] if held is not None else fetch(name, limit)

    return look
