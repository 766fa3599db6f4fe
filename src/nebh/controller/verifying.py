"""Verify a staged set and sign timestamps, with python-tuf. Runs in a child process that lives for one call, so that
the serving process never holds python-tuf in memory."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tuf.api._payload import Snapshot, Timestamp

from nebh.host.files import read_bounded
from nebh.model.errors import BadInput
from nebh.model.trust import TrustedSet
from nebh.signing import roles
from nebh.signing.statements import StatementSigner
from nebh.signing.trust_store import TrustStore
from nebh.signing.trusted_set import read_trusted_set


def verify_folders(folders: tuple[Path, ...], *, root: bytes) -> TrustedSet:
    """Verify what lies in `folders` (each with `metadata/` and `targets/`; the first that has a file wins) from `root`
    on, every listed release included. Raises Refused, BadInput, Unreachable."""

    def fetch(name: str, limit: int) -> bytes | None:
        for folder in folders:
            try:
                return read_bounded(folder / name, limit=limit)
            except FileNotFoundError:
                continue
        return None

    with tempfile.TemporaryDirectory(prefix="nebh-verify-") as scratch:
        store = TrustStore(Path(scratch), fetch, root, _cluster_of(root))
        return read_trusted_set(store, source="controller", wanted=None)


def _cluster_of(root: bytes) -> str:
    try:
        return str(json.loads(root)["signed"]["cluster_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput("cannot read the root metadata: it names no cluster") from error


def make_timestamp(*, snapshot: bytes, version: int, signer: StatementSigner, now: int) -> bytes:
    """Return a timestamp for a snapshot file that is good for three days from `now` (Unix ms). Raises BadInput."""
    signed = roles.parse_role(snapshot, Snapshot)
    return roles.seal_role(
        Timestamp(snapshot_meta=roles.meta_file(snapshot, signed.version)),
        signers=(signer,),
        cluster_id=str(signed.unrecognized_fields.get("cluster_id", "")),
        version=version,
        now=now // 1000,
        life=roles.LIFETIMES["timestamp"],
    )
