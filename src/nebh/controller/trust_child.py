"""Verifying and signing metadata in child processes that live for one call."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from nebh.host.run import Command, run
from nebh.model.errors import BadInput, Broken
from nebh.model.trust import TrustedSet
from nebh.wire import codec, failures

LIMIT = 64 << 20


class TrustChild:
    """TrustTools that start `nebh-controller verify` and `nebh-controller timestamp`: python-tuf is never loaded here.
    key: file of the controller's key."""

    def __init__(self, *, key: Path) -> None:
        self._key = key

    def verify(self, folders: tuple[Path, ...], *, root: bytes) -> TrustedSet:
        """Verify in a child. Raises Refused, BadInput, Unreachable."""
        cluster = peek_cluster(root)
        with tempfile.NamedTemporaryFile(prefix="nebh-root-") as file:
            file.write(root)
            file.flush()
            words = ("verify", "--key", str(self._key), "--cluster", cluster, "--root", file.name)
            answer = _ask(*words, *map(str, folders))
        return codec.decode_loose(answer, TrustedSet, what="the verifier's answer", limit=LIMIT)

    def complete(self, staging: Path, standing: Path, *, root: bytes) -> dict[str, bytes]:
        """Sign in a child what a CI key's release needs. Raises Refused, BadInput."""
        cluster = peek_cluster(root)
        with tempfile.NamedTemporaryFile(prefix="nebh-root-") as file:
            file.write(root)
            file.flush()
            words = ("complete", "--key", str(self._key), "--cluster", cluster, "--root", file.name)
            answer = _ask(*words, str(staging), str(standing))
        plain = codec.decode_loose(answer, dict[str, str], what="the signer's answer", limit=LIMIT)
        return {name: base64.b64decode(text) for name, text in plain.items()}

    def timestamp(self, *, snapshot: bytes, version: int) -> bytes:
        """Sign in a child. Raises BadInput."""
        with tempfile.NamedTemporaryFile(prefix="nebh-snapshot-") as file:
            file.write(snapshot)
            file.flush()
            return _ask("timestamp", "--key", str(self._key), "--number", str(version), file.name)


def peek_cluster(root: bytes) -> str:
    """Return the cluster id that a root file, not yet verified, carries. Raises BadInput."""
    try:
        return str(msgspec.json.decode(root)["signed"]["cluster_id"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise BadInput("cannot read the root metadata: it names no cluster") from error


def _ask(*words: str) -> bytes:
    command = Command(
        argv=(sys.executable, "-m", "nebh.programs.controller", *words),
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=60,
        accept=(0, 3),
    )
    done = run(command)
    if done.status == 0:
        return done.stdout
    try:
        plain = msgspec.json.decode(done.stdout, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise Broken("cannot read the verifier's answer") from error
    raise failures.from_plain(plain)


def migrate_in_child(state: Path) -> None:
    """Make or upgrade the database with `nebh-controller migrate`, so that Alembic is not loaded here."""
    run(
        Command(
            argv=(sys.executable, "-m", "nebh.programs.controller", "migrate", "--state", str(state)),
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    )
