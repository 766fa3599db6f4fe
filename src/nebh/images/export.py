"""An image as others take it: an OCI layout, made from the tree alone, the same bytes each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

from nebh.images.objects import CHUNK, ObjectFolder
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest

_TYPES: Final = "application/vnd.oci.image"
_LEVEL: Final = 6


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What an image's config proposes to other programs. name: the reference's tag."""

    architecture: str = "amd64"
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    name: str = "latest"
    labels: dict[str, str] = field(default_factory=dict)


def export_layout(manifest: TreeManifest, objects: ObjectFolder, folder: Path, *, settings: ExportSettings) -> str:
    """Write an OCI layout with one layer into the empty or missing `folder`; return the manifest's digest. Raises
    BadInput when something stands there, NotFound for an object that is gone."""
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"cannot export to {folder}: something is there already", hint="name a new folder")
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer, plain = _write_layer(manifest, objects, blobs)
    config = {
        "architecture": settings.architecture,
        "os": "linux",
        "config": {
            key: value
            for key, value in (
                ("Entrypoint", list(settings.entrypoint)),
                ("User", settings.user),
                ("Labels", settings.labels),
            )
            if value
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
    }
    described = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPES}.manifest.v1+json",
        "config": {"mediaType": f"{_TYPES}.config.v1+json", **_put(blobs, config)},
        "layers": [{"mediaType": f"{_TYPES}.layer.v1.tar+gzip", **layer}],
    }
    found = _put(blobs, described)
    names = {"org.opencontainers.image.ref.name": settings.name}
    entry = {"mediaType": f"{_TYPES}.manifest.v1+json", **found, "annotations": names}
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return str(found["digest"])


class _Hashing:
    """Writes through and knows hash and length."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hasher = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hasher.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _write_layer(manifest: TreeManifest, objects: ObjectFolder, blobs: Path) -> tuple[dict[str, Any], str]:
    place = blobs / ".layer"
    with place.open("wb") as file:
        packed = _Hashing(file)
        with gzip.GzipFile(
            filename="", mode="wb", fileobj=cast("IO[bytes]", packed), mtime=0, compresslevel=_LEVEL
        ) as zipped:
            plain = _Hashing(cast("IO[bytes]", zipped))
            with tarfile.open(mode="w|", fileobj=cast("IO[bytes]", plain), format=tarfile.PAX_FORMAT) as tar:
                for entry in manifest.entries:
                    _add(tar, entry, objects)
    digest = packed.hasher.hexdigest()
    place.rename(blobs / digest)
    return {"digest": f"sha256:{digest}", "size": packed.size}, plain.hasher.hexdigest()


def _add(tar: tarfile.TarFile, entry: TreeEntry, objects: ObjectFolder) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    if entry.type is EntryType.DIRECTORY:
        info.type = tarfile.DIRTYPE
    elif entry.type is EntryType.LINK:
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
    else:
        info.size = entry.size
    chunks = objects.read(entry.sha256) if entry.size else iter(())
    tar.addfile(info, cast("IO[bytes]", _Stream(chunks)) if info.size else None)


class _Stream(io.RawIOBase):
    """Chunks as a file for tarfile."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._held = b""

    def read(self, size: int = CHUNK, /) -> bytes:
        while len(self._held) < size and (more := next(self._chunks, b"")):
            self._held += more
        data, self._held = self._held[:size], self._held[size:]
        return data


def _put(blobs: Path, value: object) -> dict[str, Any]:
    data = _json(value)
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
