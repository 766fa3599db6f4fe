"""What an import found, changed and will not do."""

from __future__ import annotations

from dataclasses import dataclass, field

from nebh.model.image import ImageRef, LintFinding, TreeManifest


@dataclass(frozen=True, kw_only=True)
class ImportLimits:
    """Bounds on what one import takes in. bytes, file: content bytes, all together and per file. ratio: decompressed
    to compressed bytes, counted once a stream gave more than `free` bytes. cpu: seconds. memory: bytes."""

    entries: int = 200_000
    bytes: int = 8 << 30
    file: int = 4 << 30
    ratio: int = 250
    free: int = 64 << 20
    layers: int = 256
    cpu: int = 1800
    memory: int = 1 << 30


@dataclass(frozen=True, kw_only=True)
class ImageDefaults:
    """What an OCI image's config proposes. Only shown to people: a release says everything itself."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    architecture: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """An imported image. normalised: what was changed, one line each. findings: what only the importer saw (setuid
    bits and file capabilities, both dropped). origin: where it came from, with the digest when the source has one."""

    digest: str
    ref: ImageRef
    manifest: TreeManifest
    origin: str
    normalised: tuple[str, ...] = ()
    findings: tuple[LintFinding, ...] = ()
    defaults: ImageDefaults = field(default_factory=ImageDefaults)
