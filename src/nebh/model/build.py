"""Images by declaration: what people write (`image.yaml`), and what the lock pins every source to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Reduction(StrEnum):
    """How much of the packages is left away. closure: everything that nothing reached from the entrypoint needs."""

    NONE = "none"
    STANDARD = "standard"
    CLOSURE = "closure"


class FileKind(StrEnum):
    """What stands behind an item of `files`."""

    PATH = "path"
    TAR = "tar"
    DEB = "deb"
    RPM = "rpm"
    OCI = "oci"
    DOCKER_ARCHIVE = "docker-archive"
    REGISTRY = "registry"
    IMAGE = "image"


@dataclass(frozen=True, kw_only=True)
class FileItem:
    """An item of `files`. source: absolute path on this computer, with `:tag` where it may have one, a registry's
    reference, or an image's digest; written: as the declaration says it, of whole images with the kind and a colon
    before it; to: absolute path in the image; strip: leading components that a tar's names lose."""

    kind: FileKind
    source: str
    written: str
    to: str = "/"
    strip: int = 0


@dataclass(frozen=True, kw_only=True)
class DebianSource:
    """Where Debian packages come from. suites and components as in sources.list; keyring: a file with the keys that may
    sign, "" for the keys of Debian itself that Nebh carries."""

    mirror: str = "http://deb.debian.org/debian"
    security: str = "http://deb.debian.org/debian-security"
    suite: str = "bookworm"
    components: tuple[str, ...] = ("main",)
    keyring: str = ""


@dataclass(frozen=True, kw_only=True)
class PythonNeeds:
    """requirements: lines as pip takes them. path: folders of the image that are searched for modules, besides the
    entrypoint's own."""

    requirements: tuple[str, ...] = ()
    path: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NpmNeeds:
    """lock: absolute path of a package-lock.json; written: as the declaration says it; to: the folder of the image that
    gets node_modules."""

    lock: str
    written: str
    to: str


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a build leaves: a path inside the sandbox, and where it goes in the image."""

    source: str
    to: str


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """Commands in a sandbox without network. Only `outputs` leave it. memory, disk: bytes; cpu: thousandths of a core;
    timeout: milliseconds, all commands together."""

    packages: tuple[str, ...] = ()
    files: tuple[FileItem, ...] = ()
    run: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    memory: int = 1 << 30
    disk: int = 2 << 30
    cpu: int = 1000
    timeout: int = 600_000


@dataclass(frozen=True, kw_only=True)
class ImageDeclaration:
    """One `image.yaml`. keep, drop: globs of absolute paths, `**` crosses folders. directories: empty folders made.
    architecture: OCI's word. user: the id that gets a name in a generated /etc/passwd."""

    packages: tuple[str, ...] = ()
    debian: DebianSource = field(default_factory=DebianSource)
    python: PythonNeeds = field(default_factory=PythonNeeds)
    npm: NpmNeeds | None = None
    files: tuple[FileItem, ...] = ()
    build: BuildStep | None = None
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    reduce: Reduction = Reduction.STANDARD
    architecture: str = "amd64"
    user: int = 10001


@dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """One Debian package. path: below the mirror; build: needed by the build alone."""

    name: str
    version: str
    architecture: str
    mirror: str
    path: str
    size: int
    sha256: str
    build: bool = False


@dataclass(frozen=True, kw_only=True)
class LockedWheel:
    """One wheel, as the index names it."""

    name: str
    version: str
    filename: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class LockedNpm:
    """One npm package. path: where it stands, beginning with node_modules; source: what npm is asked for; sha512: hex,
    as package-lock.json pins it; sha256: of the same bytes."""

    path: str
    name: str
    version: str
    source: str
    sha512: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class LockedFile:
    """One item of `files`: of a file the SHA-256 of its bytes, of a directory that of names, modes and contents, of an
    image its tree manifest's digest."""

    written: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ImageLock:
    """Every source of one declaration by digest. wanted: a digest of the parts of the declaration that were resolved;
    with another one the lock is stale. python: the interpreter's version that wheels were chosen for, as `3.11`.
    npm_lock: SHA-256 of the package-lock.json that `npm` was made from."""

    format: int
    wanted: str
    architecture: str
    python: str = ""
    packages: tuple[LockedPackage, ...] = ()
    wheels: tuple[LockedWheel, ...] = ()
    npm_lock: str = ""
    npm: tuple[LockedNpm, ...] = ()
    files: tuple[LockedFile, ...] = ()
