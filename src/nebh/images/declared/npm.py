"""npm packages by a package-lock.json: what it pins is fetched by npm, checked, unpacked; no script of a package is run."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nebh.host.files import read_bounded
from nebh.host.run import Command, CommandFailed, run
from nebh.images.declared.apt import way_out
from nebh.images.objects import ObjectFolder, hash_file, read_chunks
from nebh.model.build import LockedNpm, NpmNeeds
from nebh.model.errors import BadInput, Failed, NotFound

_PATIENCE: Final = 900.0
_BATCH: Final = 40
_MOST: Final = 64 << 20
_MOST_PACKAGES: Final = 20_000
_MACHINES: Final = {"amd64": "x64", "arm64": "arm64"}
_NAME: Final = re.compile(r"(?:@[A-Za-z0-9~][\w.~-]*/)?[A-Za-z0-9~][\w.~-]*\Z", re.ASCII)
_PATH: Final = re.compile(r"(?:(?:\A|/)node_modules/(?:@[\w~][\w.~-]*/)?[\w~][\w.~-]*)+\Z", re.ASCII)
_VERSION: Final = re.compile(r"[0-9][0-9A-Za-z.+-]*\Z", re.ASCII)
_ELSEWHERE: Final = re.compile(r"https://[^\s'\"]+\.tgz\Z")
_SHA512: Final = re.compile(r"sha512-([A-Za-z0-9+/]{86}==)")
_PASSED: Final = ("HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")


@dataclass(frozen=True, kw_only=True)
class NpmPackage:
    """One package of a package-lock.json. path: where it stands, beginning with node_modules; source: what npm is asked
    for, `name@version` or a URL; sha512: hex."""

    path: str
    name: str
    version: str
    source: str
    sha512: str


def read_package_lock(needs: NpmNeeds) -> bytes:
    """Return a package-lock.json. Raises NotFound, BadInput."""
    try:
        return read_bounded(Path(needs.lock), limit=_MOST)
    except FileNotFoundError:
        raise NotFound(
            f"cannot find {needs.written}: there is no {needs.lock}",
            hint="`npm install --package-lock-only` makes it; commit it with the code",
        ) from None
    except OSError as error:
        raise BadInput(f"cannot read {needs.written}: {error.strerror}") from error


def parse_package_lock(data: bytes, *, what: str, architecture: str) -> tuple[NpmPackage, ...]:
    """Return what a package-lock.json pins for running on Linux, by path: no development packages, none for other
    systems. Raises BadInput naming the package that nothing pins, or that is no package of a registry."""
    try:
        plain = json.loads(data)
        version, listed = plain["lockfileVersion"], dict(plain["packages"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(
            f"cannot read {what}: it is no package-lock.json of version 2 or 3",
            hint="`npm install --package-lock-only --lockfile-version 3` writes one",
        ) from error
    if version not in (2, 3) or len(listed) > _MOST_PACKAGES:
        raise BadInput(f"cannot read {what}: version {version!r} with {len(listed)} packages; 2 and 3 are read")
    found = (_package(path, one, what, architecture) for path, one in sorted(listed.items()) if path)
    return tuple(one for one in found if one is not None)


def _package(path: str, entry: Any, what: str, architecture: str) -> NpmPackage | None:
    if not isinstance(entry, dict):
        raise BadInput(f"cannot read {what}: {path[:200]!r} is no package")
    if entry.get("dev") or entry.get("inBundle"):
        return None
    if entry.get("link") or not _PATH.match(path):
        raise BadInput(
            f"cannot use {what}: {path[:200]!r} is a folder of the project, not a package below node_modules",
            hint="name the folder under `files`",
        )
    if not _fits(entry, architecture):
        if entry.get("optional"):
            return None
        raise BadInput(f"cannot use {what}: {path} is for another system than Linux on {architecture}")
    name, version = entry.get("name") or path.rpartition("node_modules/")[2], str(entry.get("version", ""))
    pinned = _SHA512.search(str(entry.get("integrity", "")))
    if not _NAME.match(str(name)) or not _VERSION.match(version) or not pinned:
        raise BadInput(
            f"cannot use {what}: {path} is not pinned by name, version and SHA-512",
            hint="packages of git or of a folder have no such pin; publish them, or name them under `files`",
        )
    try:
        sha512 = base64.b64decode(pinned[1], validate=True).hex()
    except binascii.Error as error:
        raise BadInput(f"cannot use {what}: the integrity of {path} is no SHA-512") from error
    return NpmPackage(path=path, name=name, version=version, source=_source(entry, name, version, path), sha512=sha512)


def _source(entry: dict[str, Any], name: str, version: str, path: str) -> str:
    """Return what npm is asked for. A registry's own addresses are left to npm's settings: there may be a mirror."""
    resolved = entry.get("resolved") or ""
    if not resolved or f"/{name}/-/" in resolved:
        return f"{name}@{version}"
    if not isinstance(resolved, str) or not _ELSEWHERE.match(resolved):
        raise BadInput(f"cannot fetch {path}: {str(resolved)[:200]!r} is no package of a registry and no archive")
    return resolved


def _fits(entry: dict[str, Any], architecture: str) -> bool:
    wanted = (("os", "linux"), ("cpu", _MACHINES[architecture]), ("libc", "glibc"))
    for key, ours in wanted:
        said = entry.get(key) or []
        names = [said] if isinstance(said, str) else [str(one) for one in said]
        allowed = [one for one in names if not one.startswith("!")]
        if f"!{ours}" in names or (allowed and ours not in allowed):
            return False
    return True


def lock_npm(
    needs: NpmNeeds, data: bytes, downloads: ObjectFolder, *, architecture: str, progress: Callable[[str], None]
) -> tuple[LockedNpm, ...]:
    """Fetch and pin what the package-lock.json `data` names. Raises BadInput, Failed."""
    packages = parse_package_lock(data, what=needs.written, architecture=architecture)
    digests = _fetch({one.sha512: one.source for one in packages}, downloads, progress)
    return tuple(
        LockedNpm(
            path=one.path,
            name=one.name,
            version=one.version,
            source=one.source,
            sha512=one.sha512,
            sha256=digests[one.sha512],
        )
        for one in packages
    )


def fetch_npm(packages: tuple[LockedNpm, ...], downloads: ObjectFolder, *, progress: Callable[[str], None]) -> None:
    """Have every package in `downloads`. Raises Failed when the registry has none with a locked hash."""
    lacking = {one.sha512: one for one in packages if not downloads.has(one.sha256)}
    digests = _fetch({one.sha512: one.source for one in lacking.values()}, downloads, progress)
    for one in lacking.values():
        if digests[one.sha512] != one.sha256:
            raise Failed(f"cannot use {one.source}: the lock names two contents for it", hint="run `nebh image lock`")


def _fetch(wanted: dict[str, str], downloads: ObjectFolder, progress: Callable[[str], None]) -> dict[str, str]:
    """Have npm fetch `wanted` (what to ask for by SHA-512); return SHA-256 by SHA-512."""
    found: dict[str, str] = {}
    left = list(wanted.items())
    for start in range(0, len(left), _BATCH):
        progress(f"fetching npm packages, {start} of {len(left)}")
        batch = dict(left[start : start + _BATCH])
        with tempfile.TemporaryDirectory(prefix="nebh-npm-") as name:
            _download(Path(name), sorted(set(batch.values())))
            found.update(_keep(Path(name), downloads))
        for sha512, source in batch.items():
            if sha512 not in found:
                raise Failed(
                    f"cannot fetch {source}: the registry has no archive with the pinned SHA-512",
                    hint="if you trust the registry's new bytes, make package-lock.json anew and look at the difference",
                )
    return found


def _download(folder: Path, sources: list[str]) -> None:
    (folder / "home").mkdir()
    argv = (
        *("npm", "pack", "--loglevel=error", "--ignore-scripts", f"--cache={folder / 'cache'}", "--no-update-notifier"),
        *(f"--pack-destination={folder}", "--", *sources),
    )
    given = {name: value for name, value in os.environ.items() if name.lower().startswith("npm_config_")}
    given.update({name: os.environ[name] for name in _PASSED if name in os.environ})
    try:
        run(Command(argv=argv, env={**way_out(), **given}, cwd=folder / "home", timeout=_PATIENCE))
    except CommandFailed as error:
        if error.status == 127:
            raise NotFound("cannot fetch npm packages: there is no npm here", hint="apt-get install npm") from error
        raise Failed(
            f"cannot fetch npm packages: {_complaint(error)}",
            hint="check the registry in .npmrc, and this machine's way out (https_proxy)",
        ) from error


def _complaint(error: CommandFailed) -> str:
    """Return what npm said, without the words before each line and where its log is."""
    lines = [re.sub(r"npm (?:error|ERR!)\s*", "", line).strip() for line in error.stderr.splitlines()]
    return "; ".join([line for line in lines if line and "complete log" not in line][:4])[:500]


def _keep(folder: Path, downloads: ObjectFolder) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.tgz")):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            digest = hash_file(descriptor)
            size = os.fstat(descriptor).st_size
            with path.open("rb") as file:
                sha512 = hashlib.file_digest(file, "sha512").hexdigest()
            os.lseek(descriptor, 0, os.SEEK_SET)
            downloads.put(digest, size, read_chunks(os.dup(descriptor)))
        finally:
            os.close(descriptor)
        yield sha512, digest
