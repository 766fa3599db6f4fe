"""What the controller does with metadata: verify what is to be published, renew the timestamp, complete CI's work."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tuf.api._payload import Root, Snapshot, Timestamp

from nebh.host import files
from nebh.model.errors import Refused
from nebh.model.trust import TrustedSet
from nebh.signing import roles
from nebh.signing.repository import Publication, read_state
from nebh.signing.statements import StatementSigner
from nebh.signing.trust_store import Fetch, TrustStore
from nebh.signing.trusted_set import read_trusted_set
from nebh.signing.wish import complete

_FILE_LIMIT = 8 << 20


def folders_fetch(folders: tuple[Path, ...]) -> Fetch:
    """Return a Fetch on folders with `metadata/` and `targets/`; the first that has a file wins."""

    def fetch(name: str, limit: int) -> bytes | None:
        if ".." in name.split("/"):
            return None
        for folder in folders:
            try:
                return files.read_bounded(folder / name, limit=max(limit + 1, _FILE_LIMIT))[: limit + 1]
            except FileNotFoundError:
                continue
        return None

    return fetch


class ControllerTools:
    """key: the controller's, one of role timestamp; cluster_id: "" until the first publication names it."""

    def __init__(self, *, key: StatementSigner, cluster_id: str | None, now: Callable[[], int]) -> None:
        self._key = key
        self._cluster_id = cluster_id or None
        self._now = now

    def verify(self, folders: tuple[Path, ...], *, root: bytes) -> TrustedSet:
        """Verify as a node without a past would, from the trusted root `root`. Raises Refused, BadInput,
        Unreachable (a file is missing)."""
        with tempfile.TemporaryDirectory(prefix="nebh-verify-") as scratch:
            store = TrustStore(Path(scratch), folders_fetch(folders), root, self._cluster_id)
            trusted = read_trusted_set(store, source="publication", wanted=None)
        if len(set(trusted.cluster_ids)) != 1:
            raise Refused("cannot publish: it mixes clusters", rule="N0")
        return trusted

    def complete(self, staging: Path, standing: Path, *, root: bytes) -> dict[str, bytes]:
        """Return the snapshot and timestamp, by file name, for the release roles that a CI key put into `staging`, on
        the set that stands. Raises Refused when this controller may not sign the snapshot."""
        with tempfile.TemporaryDirectory(prefix="nebh-complete-") as scratch:
            store = TrustStore(Path(scratch), folders_fetch((standing,)), root, self._cluster_id)
            state = read_state(store, source="publication", wanted=None)
        metadata = {path.name: path.read_bytes() for path in (staging / "metadata").glob("*.json")}
        given = Publication(cluster_id=state.cluster_id, base={}, metadata=metadata)
        try:
            made = complete(given, state, key=self._key, now=self._now())
        except Refused as error:
            raise Refused(
                f"cannot publish with a CI key: {error.message}",
                rule=error.rule,
                hint="an operator allows it: `nebh key ci-mode on`; or an operator deploys",
            ) from error
        return {name: data for name, data in made.metadata.items() if name not in metadata}

    def timestamp(self, *, snapshot: bytes, version: int) -> bytes:
        """Return timestamp.json of `version` for these bytes of a snapshot file, signed by this controller."""
        body = roles.parse_role(snapshot, Snapshot)
        return roles.seal_role(
            Timestamp(snapshot_meta=roles.meta_file(snapshot, body.version)),
            signers=(self._key,),
            cluster_id=str(body.unrecognized_fields.get("cluster_id", "")),
            version=version,
            now=self._now(),
            life=roles.LIFETIMES["timestamp"],
        )

    def may_sign_timestamp(self, root: bytes) -> bool:
        """Tell whether the root file `root` names this controller's key."""
        return self._key.public in roles.keys_of(roles.parse_role(root, Root), "timestamp")
