"""Tree manifests as bytes, and what must hold before anybody trusts their structure (N9). Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from nebh.model.errors import BadInput, Refused
from nebh.model.image import EntryType, ImageRef, TreeEntry, TreeManifest
from nebh.model.names import is_digest
from nebh.wire import codec

FORMAT: Final = 1
MAX_MANIFEST: Final = 64 << 20
MAX_ENTRIES: Final = 300_000
MAX_PATH: Final = 1024
MAX_COMPONENT: Final = 255
MAX_DEPTH: Final = 128
MAX_TARGET: Final = 1024
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()

# The container's own mounts and generated files land here; crun must never follow an image's link to them.
MOUNT_DIRECTORIES: Final = ("dev", "etc", "proc", "tmp")
MOUNT_FILES: Final = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
# Directories that the kernel or the runtime fills: an image has nothing to say below them.
KERNEL_DIRECTORIES: Final = ("dev", "proc", "sys")

_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def encode_manifest(manifest: TreeManifest) -> bytes:
    """Return the canonical bytes, the ones that `digest_manifest` addresses."""
    return codec.encode(manifest)


def digest_manifest(data: bytes) -> str:
    """Return the hex SHA-256 that names a manifest."""
    return hashlib.sha256(data).hexdigest()


def decode_manifest(data: bytes) -> TreeManifest:
    """Return a valid manifest from its canonical bytes. Raises BadInput naming the first path that is wrong."""
    manifest = codec.decode_loose(data, TreeManifest, what="a tree manifest", limit=MAX_MANIFEST)
    # One encoding and one comparison instead of codec.decode: 20,000 entries, and the numbers are checked below.
    if codec.encode(manifest) != data:
        codec.decode(data, TreeManifest, what="a tree manifest", limit=MAX_MANIFEST)
        raise BadInput("cannot read a tree manifest: it is not canonical JSON")
    problem = find_problem(manifest)
    if problem:
        raise BadInput(f"cannot use a tree manifest: {problem}")
    return manifest


def accept_manifest(data: bytes, *, ref: ImageRef) -> TreeManifest:
    """Return the manifest that a release means by `ref`. Raises Refused(rule="N9") for any other bytes or structure."""
    if len(data) > MAX_MANIFEST:
        raise Refused(f"cannot accept an image: its manifest is {len(data)} bytes, at most {MAX_MANIFEST}", rule="N9")
    found = digest_manifest(data)
    if found != ref.manifest:
        raise Refused(f"cannot accept an image: manifest {ref.manifest} is promised, {found} arrived", rule="N9")
    try:
        manifest = decode_manifest(data)
    except BadInput as error:
        raise Refused(f"cannot accept image {found[:12]}: {error.message}", rule="N9") from error
    have = refer_to(manifest, data=data)
    if (have.bytes, have.entries) != (ref.bytes, ref.entries) or ref.manifest_bytes not in (0, len(data)):
        raise Refused(
            f"cannot accept image {found[:12]}: the release says {ref.bytes} bytes in {ref.entries} entries, "
            f"the manifest has {have.bytes} in {have.entries}",
            rule="N9",
        )
    return manifest


def refer_to(manifest: TreeManifest, *, data: bytes = b"") -> ImageRef:
    """Return what a release says of this manifest; `data`, its canonical bytes, spares encoding it again."""
    data = data or encode_manifest(manifest)
    return ImageRef(
        manifest=digest_manifest(data),
        bytes=sum(entry.size for entry in manifest.entries),
        entries=len(manifest.entries),
        manifest_bytes=len(data),
    )


def find_problem(manifest: TreeManifest) -> str:
    """Return the first thing wrong with the structure of a manifest, naming its path, or ""."""
    if manifest.format != FORMAT:
        return f"its format is {manifest.format}, this program reads {FORMAT}"
    if len(manifest.entries) > MAX_ENTRIES:
        return f"it has {len(manifest.entries)} entries, at most {MAX_ENTRIES} are allowed"
    directories = {""}
    sizes: dict[str, int] = {}
    before = ""
    for entry in manifest.entries:
        path = entry.path
        problem = find_path_problem(path)
        if not problem and path <= before:
            problem = "it stands twice" if path == before else f"it is not in order after {before!r}"
        if not problem and path.rpartition("/")[0] not in directories:
            problem = "its parent is not a directory of the image"
        problem = problem or _find_entry_problem(entry)
        if not problem and entry.type is EntryType.FILE and sizes.setdefault(entry.sha256, entry.size) != entry.size:
            problem = f"{entry.sha256} has two sizes"
        if problem:
            return f"{path!r}: {problem}"
        if entry.type is EntryType.DIRECTORY:
            directories.add(path)
        before = path
    return _find_missing_mount_point(manifest, directories)


def find_path_problem(path: str) -> str:
    """Return why `path` is not a canonical relative path of an image, or ""."""
    if not path:
        return "the path is empty"
    if _FORBIDDEN.search(path):
        return "the path holds a control character"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "the path is not UTF-8"
    if path.startswith("/"):
        return "the path is absolute"
    if len(encoded) > MAX_PATH:
        return f"the path is longer than {MAX_PATH} bytes"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"the path is deeper than {MAX_DEPTH} directories"
    for part in parts:
        if part in ("", ".", ".."):
            return f"the path has a component {part!r}"
        if len(part) * 4 > MAX_COMPONENT and len(part.encode()) > MAX_COMPONENT:
            return f"a component is longer than {MAX_COMPONENT} bytes"
    return ""


def find_target_problem(target: str) -> str:
    """Return why `target` cannot be the target of a link, or "". It may be absolute or climb: it is only text."""
    if not target:
        return "the link has no target"
    if _FORBIDDEN.search(target):
        return "the link's target holds a control character"
    try:
        encoded = target.encode()
    except UnicodeEncodeError:
        return "the link's target is not UTF-8"
    return f"the link's target is longer than {MAX_TARGET} bytes" if len(encoded) > MAX_TARGET else ""


def _find_entry_problem(entry: TreeEntry) -> str:
    top = entry.path.partition("/")[0]
    if top in KERNEL_DIRECTORIES and (top != entry.path or entry.type is not EntryType.DIRECTORY):
        return f"nothing but an empty directory may stand at /{top}"
    if not 0 <= entry.mode <= 0o777:
        return f"mode {entry.mode:o} has bits beyond 777"
    if entry.type is EntryType.FILE:
        if not 0 <= entry.size < codec.MAX_INTEGER:
            return f"{entry.size} is not a size"
        if not is_digest(entry.sha256):
            return f"{entry.sha256[:80]!r} is not a SHA-256"
        if (entry.size == 0) != (entry.sha256 == EMPTY_SHA256):
            return "size and SHA-256 do not agree on being empty"
        return "a file has no target" if entry.target else ""
    if entry.size or entry.sha256:
        return f"a {entry.type.value} has no content"
    if entry.type is EntryType.LINK:
        return "a link has mode 777" if entry.mode != 0o777 else find_target_problem(entry.target)
    return "a directory has no target" if entry.target else ""


def _find_missing_mount_point(manifest: TreeManifest, directories: set[str]) -> str:
    for path in MOUNT_DIRECTORIES:
        if path not in directories:
            return f"{path!r}: the directory is missing, it is a mount point"
    files = {entry.path for entry in manifest.entries if entry.type is EntryType.FILE and entry.path in MOUNT_FILES}
    for path in MOUNT_FILES:
        if path not in files:
            return f"{path!r}: the file is missing, it is a mount point"
    return ""
