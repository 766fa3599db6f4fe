"""What this node has accepted: floors, documents and releases, as `planning.accept` wants them."""

from __future__ import annotations

import json
from typing import Any

from nebh.journal.certificates import Certificates
from nebh.journal.database import Database
from nebh.journal.secrets import Secrets
from nebh.model.node import NodeList, Settings
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.trust import AcceptedRelease, AcceptedState, TrustedSet
from nebh.model.work import ReleaseRow
from nebh.wire import codec

_RELEASE = "service, epoch, counter, digest, body, accepted_at, committed_at, failed"


class Accepted:
    """The accepted-state tables. Whoever calls decides first; this only remembers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.secrets = Secrets(database)
        self.certificates = Certificates(database)

    def meta(self, key: str, default: str = "") -> str:
        """Return a value such as `cluster_id`, `node_id`, `seq`, `newest_signed_at`, `online_keys`."""
        rows = self._database.read("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0][0]) if rows else default

    def set_meta(self, key: str, value: str) -> None:
        """Remember a value."""
        self._database.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def seq(self) -> int:
        """Return the number of the newest assignment, alone: `state` reads every release."""
        return int(self.meta("seq", "0"))

    def state(self) -> AcceptedState:
        """Return the floors."""
        read = self._database.read
        return AcceptedState(
            cluster_id=self.meta("cluster_id"),
            node_id=self.meta("node_id"),
            node_name=self.meta("node_name"),
            roles={
                role: (version, digest) for role, version, digest in read("SELECT role, version, digest FROM roles")
            },
            sources={
                name: (snap, stamp) for name, snap, stamp in read("SELECT source, snapshot, timestamp FROM sources")
            },
            online_keys=self.meta("online_keys"),
            seq=self.seq(),
            nonces=frozenset(nonce for (nonce,) in read("SELECT nonce FROM nonces")),
            newest_signed_at=int(self.meta("newest_signed_at", "0")),
            releases=tuple(
                AcceptedRelease(
                    service=s,
                    epoch=e,
                    counter=c,
                    digest=d,
                    accepted_at=a,
                    committed_at=k,
                    rollback_until=json.loads(body)["rollback_until"],
                )
                for s, e, c, d, a, k, body in read(
                    "SELECT service, epoch, counter, digest, accepted_at, committed_at, body FROM releases"
                )
            ),
        )

    def take(self, trusted: TrustedSet) -> None:
        """Raise the floors to a set that was accepted, and keep its documents, in one commit."""
        with self._database.atomically():
            for role, version in trusted.versions.items():
                if role not in ("snapshot", "timestamp"):
                    self._database.write(
                        "INSERT OR REPLACE INTO roles VALUES (?, ?, ?)", role, version, trusted.digests[role]
                    )
            if trusted.online_keys != self.meta("online_keys"):
                # a new root replaced an online key: floors that the old one ran ahead fall, for every source
                self._database.write("DELETE FROM sources")
            self._database.write(
                "INSERT OR REPLACE INTO sources VALUES (?, ?, ?)",
                trusted.source,
                trusted.versions["snapshot"],
                trusted.versions["timestamp"],
            )
            self.set_meta("online_keys", trusted.online_keys)
            newest = max(int(self.meta("newest_signed_at", "0")), trusted.newest_signed_at)
            self.set_meta("newest_signed_at", str(newest))
            self.set_meta("operator_keys", " ".join(trusted.operator_keys))
            targets = trusted.versions["targets"]
            self._keep("nodes", targets, codec.encode(trusted.nodes))
            self._keep("settings", targets, codec.encode(trusted.settings))
            for service, policy in trusted.policies.items():
                self._keep(f"policy/{service}", policy.version, codec.encode(policy))
            self.secrets.take(trusted)

    def _keep(self, name: str, version: int, body: bytes) -> None:
        self._database.write("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", name, version, body)

    def _document(self, name: str) -> bytes | None:
        rows = self._database.read("SELECT body FROM documents WHERE name = ?", name)
        return bytes(rows[0][0]) if rows else None

    def settings(self) -> Settings | None:
        """Return the newest accepted settings."""
        body = self._document("settings")
        return None if body is None else codec.decode(body, Settings, what="accepted settings")

    def nodes(self) -> NodeList | None:
        """Return the newest accepted node records."""
        body = self._document("nodes")
        return None if body is None else codec.decode(body, NodeList, what="accepted node records")

    def policy(self, service: str) -> Policy | None:
        """Return the newest accepted policy of a service."""
        body = self._document(f"policy/{service}")
        return None if body is None else codec.decode(body, Policy, what=f"the accepted policy of {service}")

    def has_policy(self, service: str) -> bool:
        """Tell whether a policy of a service was accepted."""
        return self._document(f"policy/{service}") is not None

    def policies(self) -> dict[str, Policy]:
        """Return the newest accepted policy of every service."""
        rows = self._database.read("SELECT body FROM documents WHERE name LIKE 'policy/%'")
        found = [codec.decode(bytes(body), Policy, what="an accepted policy") for (body,) in rows]
        return {policy.service: policy for policy in found}

    # The newest accepted policy takes effect at a cut-over, with the release; until then, and again after a rollback,
    # the one before is in effect: a failed update leaves routes and bounds as they were.

    def effective(self, service: str) -> Policy | None:
        """Return the policy that is in effect: the one of the last cut-over, or the newest before there was any."""
        body = self._document(f"effective/{service}")
        if body is None:
            return self.policy(service)
        return codec.decode(body, Policy, what=f"the policy of {service} in effect")

    def fallback(self, service: str) -> Policy | None:
        """Return the policy that a rollback of the open transaction brings back."""
        body = self._document(f"fallback/{service}")
        return None if body is None else codec.decode(body, Policy, what=f"the earlier policy of {service}")

    def take_effect(self, service: str) -> None:
        """Let the newest accepted policy be in effect, and keep the one before for a rollback."""
        with self._database.atomically():
            self._move(f"effective/{service}", f"fallback/{service}")
            self._move(f"policy/{service}", f"effective/{service}")

    def fall_back(self, service: str) -> None:
        """Bring the policy before back into effect."""
        with self._database.atomically():
            if self._document(f"fallback/{service}") is not None:
                self._move(f"fallback/{service}", f"effective/{service}")
            newest = self.policy(service)
            self.set_meta(f"fallen/{service}", str(newest.version) if newest else "")
            self.settle_policy(service)

    def has_fallen(self, service: str) -> bool:
        """Tell whether the newest policy came with a release that was rolled back: it then waits for the next deploy."""
        newest = self.policy(service)
        return newest is not None and self.meta(f"fallen/{service}") == str(newest.version)

    def settle_policy(self, service: str) -> None:
        """Forget the policy before: the transaction was committed."""
        self._database.write("DELETE FROM documents WHERE name = ?", f"fallback/{service}")

    def _move(self, source: str, target: str) -> None:
        self._database.write(
            "INSERT OR REPLACE INTO documents SELECT ?, version, body FROM documents WHERE name = ?", target, source
        )

    def add_release(self, release: Release, *, digest: str, now: int) -> None:
        """Remember an accepted release; the bytes of one accepted earlier stay."""
        self._database.write(
            f"INSERT OR IGNORE INTO releases ({_RELEASE}) VALUES (?, ?, ?, ?, ?, ?, 0, '')",
            release.service,
            release.epoch,
            release.counter,
            digest,
            codec.encode(release),
            now,
        )

    def release_row(self, service: str, epoch: int, counter: int) -> ReleaseRow | None:
        """Return an accepted release's row."""
        rows = self._database.read(
            f"SELECT {_RELEASE} FROM releases WHERE service = ? AND epoch = ? AND counter = ?",
            service,
            epoch,
            counter,
        )
        return _release_row(rows[0]) if rows else None

    def release_rows(self, service: str = "") -> tuple[ReleaseRow, ...]:
        """Return accepted releases, oldest first."""
        rows = self._database.read(
            f"SELECT {_RELEASE} FROM releases WHERE ? IN ('', service) ORDER BY service, epoch, counter",
            service,
        )
        return tuple(_release_row(row) for row in rows)

    def release(self, service: str, epoch: int, counter: int) -> Release | None:
        """Return an accepted release."""
        row = self.release_row(service, epoch, counter)
        return None if row is None else codec.decode(row.body, Release, what=f"release {counter} of {service}")

    def mark_committed(self, service: str, epoch: int, counter: int, *, now: int) -> None:
        """Note that a release was committed here; the first time counts for its rollback window."""
        self._database.write(
            "UPDATE releases SET committed_at = CASE committed_at WHEN 0 THEN ? ELSE committed_at END, failed = ''"
            " WHERE service = ? AND epoch = ? AND counter = ?",
            now,
            service,
            epoch,
            counter,
        )

    def mark_failed(self, service: str, epoch: int, counter: int, *, why: str) -> None:
        """Note that a release failed here: it is not tried again by itself."""
        self._database.write(
            "UPDATE releases SET failed = ? WHERE service = ? AND epoch = ? AND counter = ?",
            why,
            service,
            epoch,
            counter,
        )

    def forget_policy(self, service: str) -> None:
        """Drop a removed service's policy. Its release rows stay: they are the floor if it ever comes back."""
        with self._database.atomically():
            for kind in ("policy", "effective", "fallback"):
                self._database.write("DELETE FROM documents WHERE name = ?", f"{kind}/{service}")
            self.secrets.forget(service)

    def use_nonce(self, nonce: str, *, now: int) -> None:
        """Remember that an order was carried out."""
        self._database.write("INSERT OR IGNORE INTO nonces VALUES (?, ?)", nonce, now)


def _release_row(row: tuple[Any, ...]) -> ReleaseRow:
    service, epoch, counter, digest, body, accepted_at, committed_at, failed = row
    return ReleaseRow(
        service=service,
        epoch=epoch,
        counter=counter,
        digest=digest,
        body=bytes(body),
        accepted_at=accepted_at,
        committed_at=committed_at,
        failed=failed,
    )
