"""Records of images on this computer: what each was made of. Bills of materials and provenance are written from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from nebh.host.files import read_bounded, write_atomic
from nebh.images.cache import ImageCache
from nebh.model.errors import BadInput, NotFound
from nebh.model.names import is_digest
from nebh.wire import codec

_MOST: Final = 16 << 20
# CycloneDX's words for kinds of sources; what is not here is a library.
_TYPES: Final = dict.fromkeys(("path", "tar", "build"), "file") | dict.fromkeys(
    ("oci", "docker-archive", "registry", "image"), "container"
)


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One source. kind: deb, wheel, npm, build, or a FileKind; files, bytes: of it in the image; build: only the build used it."""

    kind: str
    name: str
    version: str = ""
    sha256: str = ""
    files: int = 0
    bytes: int = 0
    build: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """What is known of an image that was built here. made_at: Unix seconds; declaration: path of its file;
    declared, lock: SHA-256 of both files' bytes; whole_*: all sources before anything was left away."""

    digest: str
    name: str
    made_at: int
    builder: str
    declaration: str
    declared: str
    lock: str
    architecture: str
    entrypoint: tuple[str, ...]
    user: int
    reduce: str
    sources: tuple[SourceRecord, ...]
    whole_entries: int
    whole_bytes: int
    commands: tuple[str, ...] = ()


class Records:
    """ROOT/images/<digest>.json of an image cache."""

    def __init__(self, cache: ImageCache) -> None:
        self._cache = cache
        self._folder = cache.root / "images"

    def write(self, record: ImageRecord) -> None:
        """Keep a record; an older one of the same image goes."""
        self._folder.mkdir(exist_ok=True)
        write_atomic(self._folder / f"{record.digest}.json", codec.encode(record), durable=False)

    def read(self, digest: str) -> ImageRecord | None:
        """Return an image's record, None for one that was imported."""
        with contextlib.suppress(OSError, BadInput):
            data = read_bounded(self._folder / f"{digest}.json", limit=_MOST)
            return codec.decode_loose(data, ImageRecord, what="an image's record", limit=_MOST)
        return None

    def find(self, text: str) -> str:
        """Return the digest of the image on this computer that `text` means: a digest, the start of one (6 or more
        letters), or the name of a built one, the newest where there are several. Raises NotFound, BadInput."""
        if is_digest(text):
            self._cache.manifest_bytes(text)
            return text
        begin = [one for one in self.digests() if len(text) >= 6 and one.startswith(text)]
        if len(begin) > 1:
            raise BadInput(f"cannot tell which image {text} means: {len(begin)} begin so", hint="write more of it")
        named = [one for one in self.digests() if (record := self.read(one)) is not None and record.name == text]
        newest = sorted(named, key=self._written, reverse=True)
        if not begin and not newest:
            raise NotFound(
                f"cannot find image {text!r} on this computer", hint="`nebh image list` shows those there are"
            )
        return (begin or newest)[0]

    def _written(self, digest: str) -> int:
        return (self._folder / f"{digest}.json").stat().st_mtime_ns

    def remove(self, digest: str) -> None:
        """Remove a record; none is no error."""
        (self._folder / f"{digest}.json").unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Yield every image on this computer, built or imported."""
        for path in sorted((self._cache.root / "manifests").glob("*.json")):
            if is_digest(path.stem):
                yield path.stem


def render_spdx(record: ImageRecord) -> dict[str, Any]:
    """Return an SPDX 2.3 document."""
    image = "SPDXRef-image"
    packages: list[dict[str, Any]] = [
        {
            "SPDXID": image,
            "name": record.name,
            "versionInfo": record.digest,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "checksums": [{"algorithm": "SHA256", "checksumValue": record.digest}],
            "primaryPackagePurpose": "CONTAINER",
        }
    ]
    relations = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", image)]
    for number, one in enumerate(record.sources):
        name = f"SPDXRef-source-{number}"
        packages.append(
            {
                "SPDXID": name,
                "name": one.name,
                "versionInfo": one.version or "NOASSERTION",
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "checksums": [{"algorithm": "SHA256", "checksumValue": one.sha256}],
                "externalRefs": [
                    {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
                    for purl in (_purl(one, record),)
                    if purl
                ],
            }
        )
        used = one.files > 0
        kind = "CONTAINS" if used else "GENERATED_FROM"
        relations.append(_relation(image, kind, name) if used or not one.build else _build_tool(name, image))
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": record.name,
        "documentNamespace": f"urn:nebh:image:{record.digest}",
        "creationInfo": {"created": _time(record), "creators": [f"Tool: nebh-{record.builder}"]},
        "packages": packages,
        "relationships": relations,
    }


def render_cyclonedx(record: ImageRecord) -> dict[str, Any]:
    """Return a CycloneDX 1.5 document. What only the build used, or left nothing in the image, has scope `excluded`."""
    components = []
    for number, one in enumerate(record.sources):
        component: dict[str, Any] = {
            "type": _TYPES.get(one.kind, "library"),
            "bom-ref": f"source-{number}",
            "name": one.name,
            "version": one.version,
            "scope": "required" if one.files else "excluded",
            "hashes": [{"alg": "SHA-256", "content": one.sha256}],
        }
        if purl := _purl(one, record):
            component["purl"] = purl
        components.append(component)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": _time(record),
            "tools": {"components": [{"type": "application", "name": "nebh", "version": record.builder}]},
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": record.name,
                "version": record.digest,
                "hashes": [{"alg": "SHA-256", "content": record.digest}],
            },
        },
        "components": components,
    }


def render_provenance(record: ImageRecord) -> dict[str, Any]:
    """Return an in-toto statement with SLSA provenance: inputs by digest, the lock, the builder and its version."""
    inputs = [
        {
            "name": one.name,
            "digest": {"sha256": one.sha256},
            **({"uri": purl} if (purl := _purl(one, record)) else {}),
        }
        for one in record.sources
        if one.kind != "build"
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": record.name, "digest": {"sha256": record.digest}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:nebh:declared-build:1",
                "externalParameters": {
                    "declaration": {"sha256": record.declared},
                    "lock": {"sha256": record.lock},
                    "reduce": record.reduce,
                    "commands": list(record.commands),
                },
                "resolvedDependencies": inputs,
            },
            "runDetails": {
                "builder": {"id": "urn:nebh:builder", "version": {"nebh": record.builder}},
                "metadata": {"finishedOn": _time(record)},
            },
        },
    }


def _purl(one: SourceRecord, record: ImageRecord) -> str:
    if one.kind == "deb" and one.version:
        return f"pkg:deb/debian/{quote(one.name)}@{quote(one.version)}?arch={record.architecture}"
    if one.kind == "npm":
        return f"pkg:npm/{quote(one.name)}@{quote(one.version)}"
    return f"pkg:pypi/{quote(one.name)}@{quote(one.version)}" if one.kind == "wheel" else ""


def _relation(left: str, kind: str, right: str) -> dict[str, str]:
    return {"spdxElementId": left, "relationshipType": kind, "relatedSpdxElement": right}


def _build_tool(name: str, image: str) -> dict[str, str]:
    return _relation(name, "BUILD_TOOL_OF", image)


def _time(record: ImageRecord) -> str:
    return datetime.fromtimestamp(record.made_at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
