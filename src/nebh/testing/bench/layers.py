"""What a change of an image costs others: Docker's layers as it pushes them, and whole files compressed one by one."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from nebh.images.objects import ObjectFolder
from nebh.model.image import EntryType, TreeEntry, TreeManifest

Entries = Iterable[TreeEntry]
_DOCKER_LEVEL = 6
_ZSTD_LEVEL = 3


@dataclass
class _Counting:
    """Compresses as gzip does and counts what came out."""

    size: int = 0
    codec: zlib._Compress = field(default_factory=lambda: zlib.compressobj(_DOCKER_LEVEL, zlib.DEFLATED, 31))

    def write(self, data: bytes) -> int:
        self.size += len(self.codec.compress(data))
        return len(data)

    def close(self) -> int:
        self.size += len(self.codec.flush())
        return self.size


def folder_layer(root: Path, wanted: Callable[[str], bool]) -> int:
    """Return the bytes of a layer with the paths below `root` that are `wanted`, as tar.gz at Docker's level."""
    out = _Counting()
    with tarfile.open(mode="w|", fileobj=out, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if wanted(name):
                tar.add(path, arcname=name, recursive=False)
    return out.close()


def tree_layer(entries: Entries, objects: ObjectFolder) -> int:
    """Return the bytes of a layer with these entries of an image."""
    out = _Counting()
    with tarfile.open(mode="w|", fileobj=out, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.mtime = entry.mode, 1_700_000_000
            if entry.type is EntryType.DIRECTORY:
                info.type = tarfile.DIRTYPE
            elif entry.type is EntryType.LINK:
                info.type, info.linkname = tarfile.SYMTYPE, entry.target
            content = io.BytesIO(b"".join(objects.read(entry.sha256))) if entry.size else None
            info.size = entry.size
            tar.addfile(info, content)
    return out.close()


def whole_files(manifest: TreeManifest, data: bytes, objects: ObjectFolder, *, known: set[str]) -> int:
    """Return what an image costs where each content that is not `known` travels compressed, and the whole list of files
    with it. The contents become known."""
    codec = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    total = len(codec.compress(data))
    for entry in manifest.entries:
        if entry.type is EntryType.FILE and entry.size and entry.sha256 not in known:
            known.add(entry.sha256)
            total += len(codec.compress(b"".join(objects.read(entry.sha256))))
    return total
