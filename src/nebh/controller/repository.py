"""The published metadata: files that static mirrors could serve as they are, and the one pointer to the set that stands.

STATE/metadata/<N>.<role>.json and timestamp.json, STATE/targets/<dir>/<sha256>.<name>. Version-named files are written
first; then one database transaction makes the new set the one that stands; then timestamp.json follows. After a crash
in between, `repair` writes timestamp.json from the database and removes what was staged.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
import secrets
import shutil
from pathlib import Path
from typing import Protocol

from nebh.host import faults
from nebh.host.files import fsync_directory, read_bounded, write_atomic
from nebh.model.api import PublishRequest
from nebh.model.errors import BadInput, Conflict, NotFound
from nebh.model.names import NAME_PATTERN
from nebh.model.trust import TrustedSet

FILE_LIMIT = 8 << 20
_METADATA = re.compile(rf"([1-9][0-9]{{0,15}})\.(root|targets|snapshot|rel-{NAME_PATTERN}(?:\.[0-9]{{1,6}})?)\.json\Z")
_TARGET = re.compile(r"(?:[a-z0-9][a-z0-9-]*/){1,5}([0-9a-f]{64})\.[a-z0-9][a-z0-9.-]{0,100}\Z")
TIMESTAMP = "timestamp.json"


class TrustTools(Protocol):
    """Verifies and signs metadata; folders hold `metadata/` and `targets/`, the first that has a file wins."""

    def verify(self, folders: tuple[Path, ...], *, root: bytes) -> TrustedSet:
        """Verify from the trusted root `root` on. Raises Refused, BadInput."""
        ...

    def complete(self, staging: Path, standing: Path, *, root: bytes) -> dict[str, bytes]:
        """Return the snapshot and timestamp, by file name, for release roles in `staging` on what stands. Raises
        Refused."""
        ...

    def timestamp(self, *, snapshot: bytes, version: int) -> bytes:
        """Return a signed timestamp.json of `version` for these bytes of a snapshot file. Raises Refused."""
        ...


class Repository:
    """Files of the published set below `state`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._metadata, self._targets = state / "metadata", state / "targets"
        for folder in (self._metadata, self._targets):
            folder.mkdir(parents=True, exist_ok=True)

    def metadata(self, name: str) -> bytes:
        """Return a metadata file. Raises NotFound."""
        if name != TIMESTAMP and not _METADATA.match(name):
            raise NotFound(f"cannot find metadata {name[:80]!r}")
        return _read(self._metadata / name, f"metadata {name}")

    def target(self, path: str) -> bytes:
        """Return a target file by its path, hash prefix included. Raises NotFound."""
        if not _TARGET.match(path):
            raise NotFound(f"cannot find target {path[:200]!r}")
        return _read(self._targets / path, f"target {path}")

    def trusted_root(self, *, version: int) -> bytes | None:
        """Return the root to verify from: the standing one, else the pinned STATE/root.json, else None."""
        path = self._metadata / f"{version}.root.json" if version else self._state / "root.json"
        try:
            return read_bounded(path, limit=FILE_LIMIT)
        except FileNotFoundError:
            return None

    def new_staging(self) -> Path:
        """Return the path of a folder of its own for one publication; the caller removes it."""
        return self._state / f"staging-{secrets.token_hex(6)}"

    def stage(self, request: PublishRequest, staging: Path) -> None:
        """Write a request's files into `staging`. Raises BadInput."""
        for name, text in request.metadata.items():
            if name != TIMESTAMP and not _METADATA.match(name):
                raise BadInput(f"cannot publish {name[:80]!r}: it is not the name of a metadata file")
            _write(staging / "metadata" / name, _decode(text, name))
        for path, text in request.targets.items():
            found = _TARGET.match(path)
            data = _decode(text, path)
            if found is None or hashlib.sha256(data).hexdigest() != found.group(1):
                raise BadInput(f"cannot publish target {path[:200]!r}: the name does not begin with its SHA-256")
            _write(staging / "targets" / path, data)

    def check_staged(self, staging: Path, *, old: TrustedSet | None, new: TrustedSet) -> None:
        """Refuse files that the verified set does not use, and other bytes under a version that stands."""
        for path in (staging / "metadata").glob("*.json"):
            found = _METADATA.match(path.name)
            if found is None:
                continue
            version, role = int(found.group(1)), found.group(2)
            if version > new.versions.get(role, 0) or (role != "root" and version != new.versions.get(role)):
                raise BadInput(f"cannot publish {path.name}: the snapshot does not list it")
            if old is not None and version <= old.versions.get(role, 0) and not self._same(path):
                raise Conflict(f"cannot publish {path.name}: that version stands with other bytes")

    def _same(self, staged: Path) -> bool:
        with contextlib.suppress(NotFound):
            return self.metadata(staged.name) == staged.read_bytes()
        return True

    def install(self, staging: Path) -> None:
        """Move staged files to their places, all but timestamp.json, and make them durable."""
        touched: set[Path] = set()
        for kind, home in (("targets", self._targets), ("metadata", self._metadata)):
            for path in sorted((staging / kind).rglob("*")):
                if path.is_file() and path.name != TIMESTAMP:
                    place = home / path.relative_to(staging / kind)
                    touched |= _make_folders(place.parent, above=self._state)
                    path.replace(place)
                    touched.add(place.parent)
        for folder in sorted(touched):
            fsync_directory(folder)
        faults.point("controller.publish.files.after")

    def point(self, timestamp: bytes) -> None:
        """Let timestamp.json follow the database."""
        faults.point("controller.publish.pointer.before")
        write_atomic(self._metadata / TIMESTAMP, timestamp)

    def repair(self, timestamp: bytes | None) -> None:
        """Remove what a crash left staged; give timestamp.json the bytes the database holds."""
        for folder in self._state.glob("staging-*"):
            shutil.rmtree(folder)
        place = self._metadata / TIMESTAMP
        if timestamp is None:
            place.unlink(missing_ok=True)
        elif not place.exists() or place.read_bytes() != timestamp:
            self.point(timestamp)

    @property
    def folder(self) -> Path:
        """The folder that holds `metadata/` and `targets/`."""
        return self._state


def _read(path: Path, what: str) -> bytes:
    try:
        return read_bounded(path, limit=FILE_LIMIT)
    except FileNotFoundError:
        raise NotFound(f"cannot find {what}") from None


def _decode(text: str, name: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"cannot read {name[:200]}: it is not base64") from error
    if len(data) > FILE_LIMIT:
        raise BadInput(f"cannot publish {name[:200]}: over {FILE_LIMIT} bytes")
    return data


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def _make_folders(folder: Path, *, above: Path) -> set[Path]:
    """Make a folder with its parents; returns the folders whose list of names changed."""
    if folder == above or folder.is_dir():
        return set()
    changed = _make_folders(folder.parent, above=above)
    folder.mkdir()
    return changed | {folder.parent}
