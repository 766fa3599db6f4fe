"""The controller's registry door from the operator's side: tokens, what was pushed, and importing it."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.client.api_client import Client
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.report import ImportReport
from nebh.model.api import DoorTokenRequest
from nebh.model.errors import BadInput
from nebh.model.names import is_digest
from nebh.model.service import ImageSource, SourceKind

MANIFEST_LIMIT: Final = 4 << 20
BLOB_LIMIT: Final = 8 << 30
BLOBS: Final = 500
_NAME: Final = "org.opencontainers.image.ref.name"


def import_any(source: ImageSource, *, cache: ImageCache, session: Session) -> ImportReport:
    """Import a source of any kind; one at the door is fetched first. Raises as `import_image`, and what the controller
    answers."""
    if source.kind is not SourceKind.DOOR:
        return import_image(source, cache=cache)
    with fetched(session.client, source.location, cache) as (folder, digest):
        layout = ImageSource(kind=SourceKind.OCI_LAYOUT, location=f"{folder}:image")
        return replace(import_image(layout, cache=cache), origin=f"door:{source.location}@{digest}")


@contextlib.contextmanager
def fetched(client: Client, reference: str, cache: ImageCache) -> Iterator[tuple[Path, str]]:
    """Yield an OCI layout with the image that `name:tag` or `name@sha256:...` means at the door, and its digest; every
    blob is hashed here. Raises NotFound, BadInput, Unreachable."""
    repository, named = split_reference(reference)
    with cache.folder() as folder:
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        answer = client.pull(repository, "manifests", named)
        data = answer.read(limit=MANIFEST_LIMIT)
        media_type = answer.headers.get("content-type", "")
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if named.startswith("sha256:") and named != digest:
            raise BadInput(f"cannot import {reference}: the controller sent another image, {digest}")
        _keep_all(client, repository, data, blobs)
        described = {"mediaType": media_type, "digest": digest, "size": len(data), "annotations": {_NAME: "image"}}
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        yield folder, digest


def _keep_all(client: Client, repository: str, data: bytes, blobs: Path) -> None:
    """Write a manifest and whatever it names into a layout."""
    (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
    for digest, is_manifest in _named_by(data):
        place = blobs / digest.removeprefix("sha256:")
        if place.exists():
            continue
        answer = client.pull(repository, "manifests" if is_manifest else "blobs", digest)
        if is_manifest:
            inner = answer.read(limit=MANIFEST_LIMIT)
            if "sha256:" + hashlib.sha256(inner).hexdigest() != digest or any(deep for _, deep in _named_by(inner)):
                raise BadInput(f"cannot import from the door: {digest} is not what the controller sent")
            _keep_all(client, repository, inner, blobs)
            continue
        hasher, size = hashlib.sha256(), 0
        with place.open("wb") as file:
            for chunk in answer.chunks:
                size += len(chunk)
                if size > BLOB_LIMIT:
                    raise BadInput(f"cannot import from the door: blob {digest} is too large")
                hasher.update(chunk)
                file.write(chunk)
        if "sha256:" + hasher.hexdigest() != digest:
            raise BadInput(f"cannot import from the door: {digest} is not what the controller sent")


def _named_by(data: bytes) -> list[tuple[str, bool]]:
    """Return (digest, whether it is a manifest) of what a manifest names. Raises BadInput."""
    try:
        plain: dict[str, Any] = json.loads(data)
        inner = [(str(one["digest"]), True) for one in plain.get("manifests", ())]
        own = [plain["config"], *plain["layers"]] if "layers" in plain else []
        found = [*inner, *((str(one["digest"]), False) for one in own)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput("cannot import from the door: the manifest cannot be read") from error
    if len(found) > BLOBS or not all(is_digest(one.removeprefix("sha256:")) for one, _ in found):
        raise BadInput("cannot import from the door: the manifest names too much, or what is no digest")
    return found


def split_reference(text: str) -> tuple[str, str]:
    """Return (repository, tag or `sha256:...`). Raises BadInput."""
    repository, at, digest = text.partition("@")
    if at:
        return repository, digest
    repository, colon, tag = text.rpartition(":")
    if not colon or not repository or "/" in tag:
        raise BadInput(f"cannot import {text!r} from the door", hint="write door:NAME:TAG or door:NAME@sha256:…")
    return repository, tag


def token(options: argparse.Namespace, out: Output) -> int:
    """Make a token, list them, end one."""
    client = Session(options, out).client
    if options.end or options.list:
        left = client.drop_door_token(options.end) if options.end else client.door_tokens()
        rows = [
            {"id": one.id, "repository": one.repository, "push": one.push, "expires_at": one.expires_at} for one in left
        ]
        if out.json_wanted:
            out.document({"tokens": rows})
            return 0
        shown = [(one.id, one.repository, "push" if one.push else "pull", _day(one.expires_at)) for one in left]
        out.table(("TOKEN", "REPOSITORY", "MAY", "UNTIL"), shown)
        return 0
    if not options.repository:
        raise BadInput("cannot make a token for no repository", hint="`nebh image door-token web`")
    request = DoorTokenRequest(repository=options.repository, push=not options.pull_only, days=options.days)
    made = client.make_door_token(request)
    if out.json_wanted:
        out.document({"id": made.token.id, "secret": made.secret, "expires_at": made.token.expires_at})
        return 0
    out.say(made.secret)
    out.note(f"the password for {made.token.repository}, with any user name; good until {_day(made.token.expires_at)}")
    return 0


def show(options: argparse.Namespace, out: Output) -> int:
    """Show what was pushed."""
    found = Session(options, out).client.door_images()
    if out.json_wanted:
        rows = [{"repository": one.repository, "tag": one.tag, "digest": one.digest, "at": one.at} for one in found]
        out.document({"images": rows})
        return 0
    rows_shown = [(harmless(f"{one.repository}:{one.tag}"), one.digest[:19], _day(one.at), one.by) for one in found]
    out.table(("IMAGE", "DIGEST", "PUSHED", "BY"), rows_shown)
    return 0


def _day(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at / 1000))
