"""Images: tree manifests, what they refer to, and what lint says about them (architecture 4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nebh.model.image_ref import ImageRef

__all__ = ["EntryType", "ImageRef", "LintFinding", "LintRule", "TreeEntry", "TreeManifest"]


class EntryType(StrEnum):
    """What a manifest entry is. Nothing else can be part of an image."""

    DIRECTORY = "dir"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True, kw_only=True)
class TreeEntry:
    """One path of an image. `path` is relative, canonical, UTF-8, `/`-separated; the root itself has no entry.

    mode: permission bits 0-0o777 (0o777 for links). size: bytes, 0 unless a file. target: link target, else "".
    sha256: hex digest of a file's content, else "".
    """

    path: str
    type: EntryType
    mode: int
    size: int = 0
    target: str = ""
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class TreeManifest:
    """Sorted entries. Its canonical bytes are addressed by their own SHA-256 (`ImageRef.manifest`)."""

    format: int
    entries: tuple[TreeEntry, ...]


class LintRule(StrEnum):
    """Why an image is not minimal (N14)."""

    SHELL = "shell"
    PACKAGE_MANAGER = "package-manager"
    COMPILER = "compiler"
    DIAGNOSTIC = "diagnostic"
    SETUID = "setuid"
    FILE_CAPABILITY = "file-capability"
    WORLD_WRITABLE = "world-writable"
    NOT_WORLD_READABLE = "not-world-readable"


@dataclass(frozen=True, kw_only=True)
class LintFinding:
    """One path that breaks a lint rule. An exception in the policy reads `rule:path`, with `path` a glob."""

    rule: LintRule
    path: str
    message: str
