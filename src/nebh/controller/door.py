"""The registry door: what `docker push`, `podman push` and `skopeo copy` bring, kept until an operator imports it.

Nothing that is pushed here runs: nodes run what a signed release names, and a release names an imported image. STATE/door
holds blobs by their SHA-256 and unfinished uploads, which a restart forgets.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from nebh.controller.identity import Caller, Unidentified
from nebh.host.files import write_all
from nebh.images.objects import ObjectFolder
from nebh.model.api import DoorImages, DoorSecret, DoorToken, DoorTokenRequest, DoorTokens, Who
from nebh.model.errors import BadInput, Conflict, Failed, NotFound, Refused
from nebh.model.names import is_digest
from nebh.state import door as memory
from nebh.state.database import Database

MANIFEST_LIMIT: Final = 4 << 20
BLOB_LIMIT: Final = 8 << 30
UPLOADS: Final = 64
RESERVE: Final = 512 << 20
"""Bytes of disk that pushes leave free."""
UPLOAD_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY: Final = re.compile(rf"{_PART}(?:/{_PART}){{0,7}}\Z")
TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_SCOPE: Final = re.compile(rf"(?:{_PART}/){{0,7}}(?:{_PART}|\*)\Z")
_IMAGES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


class _Blob(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    urls: list[str] = []


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    media_type: str = ""
    config: _Blob | None = None
    layers: list[_Blob] = []
    manifests: list[_Blob] = []


@dataclass
class Upload:
    """A blob on its way: its file, how much of it is there, and the hash so far."""

    repository: str
    path: Path
    at: int
    size: int = 0
    hasher: Any = field(default_factory=hashlib.sha256)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """Who stands at the door. scopes: repositories, or `team/*`; an operator's is `*`."""

    name: str
    scopes: tuple[str, ...]
    push: bool


class Door:
    """One controller's door. Its use cases run in worker threads, so it has a connection of its own to the database,
    used by one of them at a time."""

    def __init__(self, state: Path) -> None:
        """Forget what a restart broke off."""
        self.folder = state / "door"
        self.blobs = ObjectFolder(self.folder / "blobs")
        self._uploads_folder = self.folder / "uploads"
        shutil.rmtree(self._uploads_folder, ignore_errors=True)
        self._uploads_folder.mkdir(parents=True)
        self.blobs.sweep()
        self._place = state / "controller.db"
        self._database: Database | None = None
        self._asking = threading.Lock()
        self.uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction on the door's own connection, for one thread at a time."""
        with self._asking:
            if self._database is None:
                self._database = Database(self._place)
            with self._database.begin() as connection:
                yield connection

    def close(self) -> None:
        """Close the database."""
        with self._asking:
            if self._database is not None:
                self._database.close()
            self._database = None

    # -- who

    def make_token(self, request: DoorTokenRequest, *, caller: Caller, now: int) -> DoorSecret:
        """Return a new token. Raises BadInput."""
        if len(request.repository) > 255 or not _SCOPE.match(request.repository) or not 1 <= request.days <= 366:
            raise BadInput(
                f"cannot make a token for {request.repository[:80]!r}, {request.days} days",
                hint="name a repository such as web or team/web, or team/*; 1 to 366 days",
            )
        secret = secrets.token_urlsafe(32)
        token = DoorToken(
            id=secrets.token_hex(6),
            repository=request.repository,
            push=request.push,
            at=now,
            by=caller.name,
            expires_at=now + request.days * _DAY_MS,
        )
        with self.begin() as connection:
            memory.drop_old_tokens(connection, now=now)
            memory.add_token(connection, token, secret=_hash(secret))
        return DoorSecret(token=token, secret=f"{token.id}.{secret}")

    def tokens(self) -> DoorTokens:
        """Return the tokens."""
        with self.begin() as connection:
            return DoorTokens(tokens=memory.read_tokens(connection))

    def drop_token(self, number: str) -> DoorTokens:
        """End a token; return those that are left."""
        with self.begin() as connection:
            memory.drop_token(connection, number)
            return DoorTokens(tokens=memory.read_tokens(connection))

    def images(self) -> DoorImages:
        """Return what was pushed."""
        with self.begin() as connection:
            return DoorImages(images=memory.read_tags(connection))

    def enter(self, password: str, *, now: int) -> Entrance:
        """Return who a token is for. Raises Unidentified."""
        number, _, secret = password.partition(".")
        with self.begin() as connection:
            found = memory.find_token(connection, number)
        if found is None or not hmac.compare_digest(found[1], _hash(secret)) or found[0].expires_at <= now:
            raise Unidentified(
                "cannot let you in: the password is no token of this door, or its time is over",
                again=False,
                hint="`nebh image door-token` makes one",
            )
        return Entrance(name=found[0].id, scopes=(found[0].repository,), push=found[0].push)

    def check(self, who: Entrance, repository: str, *, push: bool) -> None:
        """Raise BadInput for what is no name, Refused for what the token is not for."""
        if len(repository) > 255 or not REPOSITORY.match(repository):
            raise BadInput(f"cannot use the repository {repository[:80]!r}: it is no name")
        if not in_scope(who.scopes, repository) or (push and not who.push):
            what = "push to" if push else "pull from"
            raise Refused(f"cannot {what} {repository}: the token is not for that", rule="door", alarm=False)

    # -- blobs

    def has_blob(self, repository: str, digest: str) -> int:
        """Return the size of a repository's blob. Raises NotFound, BadInput."""
        name = plain_digest(digest)
        with self.begin() as connection:
            known = memory.find_link(connection, repository=repository, digest=name)
        if known is None or not self.blobs.has(name):
            raise NotFound(f"cannot find blob {digest[:80]} in {repository}")
        return self.blobs.size(name)

    def mount(self, repository: str, digest: str, *, source: str, now: int) -> bool:
        """Let a repository hold a blob of another one; tells whether that one has it."""
        try:
            self.has_blob(source, digest)
        except (NotFound, BadInput):
            return False
        self._link(repository, plain_digest(digest), media_type="", now=now)
        return True

    def begin_upload(self, repository: str, *, now: int) -> str:
        """Return the name of a new upload. Raises Conflict when there are too many, Failed when the disk is full."""
        state = os.statvfs(self.folder)
        if state.f_bavail * state.f_frsize < RESERVE:
            raise Failed("cannot take a push: the controller's disk is nearly full", hint="`nebh image door --help`")
        with self._lock:
            for name, old in list(self.uploads.items()):
                if old.at < now - UPLOAD_MS:
                    self._forget(name)
            if len(self.uploads) >= UPLOADS:
                raise Conflict(f"cannot take a push: {UPLOADS} are under way", hint="try again in a while")
            name = secrets.token_hex(16)
            self.uploads[name] = Upload(repository, self._uploads_folder / name, now)
            self.uploads[name].path.touch(mode=0o600)
        return name

    def upload(self, repository: str, name: str) -> Upload:
        """Return an upload under way. Raises NotFound."""
        found = self.uploads.get(name)
        if found is None or found.repository != repository:
            raise NotFound(f"cannot find upload {name[:40]!r} of {repository}")
        return found

    def add(self, upload: Upload, chunks: Iterable[bytes], *, start: int | None) -> int:
        """Append to an upload; return its size. start: where the sender thinks it stands. Raises Conflict, BadInput,
        Failed; then the upload stays as far as it came."""
        if not upload.lock.acquire(blocking=False):
            raise Conflict("cannot take this part: another one of the same upload is under way")
        try:
            if start is not None and start != upload.size:
                raise OutOfRange(f"cannot take a part from byte {start} on: {upload.size} are here")
            descriptor = os.open(upload.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                for chunk in chunks:
                    self._check_room(upload.size + len(chunk))
                    write_all(descriptor, chunk)
                    upload.hasher.update(chunk)
                    upload.size += len(chunk)
            finally:
                os.close(descriptor)
            return upload.size
        finally:
            upload.lock.release()

    def _check_room(self, size: int) -> None:
        if size > BLOB_LIMIT:
            raise BadInput(f"cannot take a blob of more than {BLOB_LIMIT} bytes")
        state = os.statvfs(self.folder)
        if state.f_bavail * state.f_frsize < RESERVE:
            raise Failed("cannot take a push: the controller's disk is nearly full")

    def finish(self, name: str, upload: Upload, digest: str, *, now: int) -> None:
        """Keep a blob under its hash. Raises BadInput when it has another one; the upload is gone in any case."""
        wanted = plain_digest(digest)
        try:
            if not hmac.compare_digest(upload.hasher.hexdigest(), wanted):
                raise BadInput(f"cannot keep the blob: its SHA-256 is {upload.hasher.hexdigest()}, not {wanted}")
            folder = os.open(self._uploads_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                upload.path.chmod(0o444)
                upload.path.rename(self._uploads_folder / wanted)
                self.blobs.adopt(wanted, folder=folder)
            finally:
                os.close(folder)
            self._link(upload.repository, wanted, media_type="", now=now)
        finally:
            self.cancel(name)

    def cancel(self, name: str) -> None:
        """Drop an upload."""
        with self._lock:
            self._forget(name)

    def _forget(self, name: str) -> None:
        found = self.uploads.pop(name, None)
        if found is not None:
            found.path.unlink(missing_ok=True)

    def _link(self, repository: str, digest: str, *, media_type: str, now: int) -> None:
        with self.begin() as connection:
            memory.link(connection, repository=repository, digest=digest, media_type=media_type, at=now)

    # -- manifests

    def put_manifest(self, repository: str, reference: str, data: bytes, *, media_type: str, by: str, now: int) -> str:
        """Keep an image's manifest under a tag or its digest, all it names being here; return `sha256:...`. Raises
        BadInput."""
        digest = hashlib.sha256(data).hexdigest()
        tagged = TAG.match(reference) is not None
        if not tagged and plain_digest(reference) != digest:
            raise BadInput(f"cannot keep the manifest: its digest is sha256:{digest}, not {reference[:80]}")
        kind = _check_manifest(data, media_type)
        for one in (*kind.layers, *kind.manifests, *((kind.config,) if kind.config else ())):
            if one.urls:
                raise BadInput("cannot keep the manifest: a layer of it lies somewhere else (urls)")
            try:
                size = self.has_blob(repository, one.digest)
            except NotFound as error:
                raise BadInput(f"cannot keep the manifest: {one.digest[:80]} was not pushed") from error
            if size != one.size:
                raise BadInput(f"cannot keep the manifest: {one.digest[:80]} has {size} bytes, not {one.size}")
        self.blobs.put(digest, len(data), (data,))
        self.blobs.sync()
        with self.begin() as connection:
            memory.link(connection, repository=repository, digest=digest, media_type=media_type, at=now)
            if tagged:
                memory.put_tag(
                    connection, repository=repository, tag=reference, digest=f"sha256:{digest}", at=now, by=by
                )
        return f"sha256:{digest}"

    def manifest(self, repository: str, reference: str) -> tuple[str, str, bytes]:
        """Return (`sha256:...`, media type, bytes) of a manifest by tag or digest. Raises NotFound, BadInput."""
        with self.begin() as connection:
            if TAG.match(reference):
                digest = memory.find_tag(connection, repository=repository, tag=reference) or ""
            else:
                digest = f"sha256:{plain_digest(reference)}"
            name = digest.removeprefix("sha256:")
            media_type = memory.find_link(connection, repository=repository, digest=name)
        if not media_type or not self.blobs.has(name):
            raise NotFound(f"cannot find manifest {reference[:80]} in {repository}")
        return digest, media_type, b"".join(self.blobs.read(name))

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Take a tag away. Raises NotFound; BadInput for a digest: what no tag leads to goes by itself."""
        if not TAG.match(reference):
            raise BadInput("cannot delete by digest: delete the tags that lead to it")
        with self.begin() as connection:
            if not memory.drop_tag(connection, repository=repository, tag=reference):
                raise NotFound(f"cannot find tag {reference} in {repository}")

    def tags(self, repository: str) -> list[str]:
        """Return a repository's tags in order. Raises NotFound when it has none."""
        with self.begin() as connection:
            found = sorted(one.tag for one in memory.read_tags(connection, repository=repository))
        if not found:
            raise NotFound(f"cannot find the repository {repository}")
        return found

    def read(self, digest: str, *, start: int, end: int) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` to before `end`."""
        descriptor = self.blobs.open(plain_digest(digest))
        try:
            while start < end and (chunk := os.pread(descriptor, min(1 << 20, end - start), start)):
                start += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)


class OutOfRange(BadInput):
    """A part of an upload, or of a blob, that is not there."""


def in_scope(scopes: tuple[str, ...], repository: str) -> bool:
    """Tell whether scopes cover a repository."""
    below = (one[:-1] for one in scopes if one.endswith("*"))
    return repository in scopes or any(repository.startswith(one) and repository != one for one in below)


def plain_digest(text: str) -> str:
    """Return the hex digits of `sha256:...`. Raises BadInput."""
    found = text.removeprefix("sha256:")
    if not text.startswith("sha256:") or not is_digest(found):
        raise BadInput(f"cannot use the digest {text[:80]!r}: it is no sha256:<64 hex digits>")
    return found


def entrance_of(caller: Caller, *, services: frozenset[str]) -> Entrance:
    """Return what a caller of the API may at the door: an operator everything, a CI key may pull what has the name of a
    service of its own. Raises Refused for others."""
    match caller.kind:
        case Who.OPERATOR:
            return Entrance(name=caller.name, scopes=("*",), push=True)
        case Who.CI:
            return Entrance(name=caller.name, scopes=tuple(services), push=False)
        case _:
            raise Refused("cannot use the registry door as this caller", rule="door", alarm=False)


def _check_manifest(data: bytes, media_type: str) -> _Manifest:
    """Return what a manifest names. Raises BadInput for what is none of the two kinds."""
    try:
        found = msgspec.json.decode(data, type=_Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"cannot keep the manifest: {error}") from error
    kind = found.media_type or media_type
    good = found.schema_version == 2 and kind == media_type
    if media_type in _IMAGES and good and found.config is not None and found.layers and not found.manifests:
        return found
    if media_type in _INDEXES and good and found.manifests and not found.layers and found.config is None:
        return found
    raise BadInput(
        f"cannot keep the manifest: {media_type[:80]!r} is no image manifest or index that this door takes",
        hint="push an OCI or Docker (schema 2) image",
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
