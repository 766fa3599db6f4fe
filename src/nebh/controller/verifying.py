"""Verify a staged set and sign timestamps, with python-tuf. Runs in a child process that lives for one call, so that
the serving process never holds python-tuf in memory."""

from __future__ import annotations

import datetime
import hashlib
import json
import tempfile
from pathlib import Path

from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from nebh.host.files import read_bounded
from nebh.model.errors import BadInput
from nebh.model.trust import TrustedSet
from nebh.signing.keys import TufSigner
from nebh.signing.statements import StatementSigner
from nebh.signing.trust_store import TrustStore
from nebh.signing.trusted_set import read_trusted_set

TIMESTAMP_DAYS = 3


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
    """Return a timestamp for a snapshot file that is good for three days from `now` (Unix ms)."""
    signed = Metadata[Snapshot].from_bytes(snapshot).signed
    end = datetime.datetime.fromtimestamp(now // 1000, datetime.UTC) + datetime.timedelta(days=TIMESTAMP_DAYS)
    meta = MetaFile(
        version=signed.version, length=len(snapshot), hashes={"sha256": hashlib.sha256(snapshot).hexdigest()}
    )
    extra = {"cluster_id": signed.unrecognized_fields.get("cluster_id", ""), "signed_at": now // 1000}
    body = Timestamp(version=version, expires=end, snapshot_meta=meta, unrecognized_fields=extra)
    metadata = Metadata(body)
    metadata.sign(TufSigner(signer))
    return metadata.to_bytes()
