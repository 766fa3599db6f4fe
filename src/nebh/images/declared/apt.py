"""Debian packages: resolved by apt in a private root of its own - own keys, own lists, no state of this machine."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from nebh.host.run import Command, CommandFailed, run
from nebh.images.objects import ObjectFolder, read_chunks
from nebh.model.build import DebianSource, LockedPackage
from nebh.model.errors import BadInput, Failed, NotFound, Unreachable

_HELPER: Final = "/usr/lib/apt/apt-helper"
_BATCH: Final = 24
_PATIENCE: Final = 900.0
_URI: Final = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")
_CONFIG: Final = """Dir "{root}";
Dir::Etc "etc";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State "state";
Dir::State::status "{root}/status";
Dir::Cache "cache";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
"""
# What a machine says about its way out; everything else of the environment stays outside.
PROXIES: Final = tuple(
    name for base in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (base, base.upper())
)


class PrivateApt:
    """apt with a root of its own, for the time of one resolution."""

    def __init__(self, root: Path, source: DebianSource, *, architecture: str) -> None:
        """`root` is an empty folder. Raises NotFound for a keyring that is not there."""
        self.root, self.source = root, source
        for name in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        keys = root / ("keys.asc" if _is_armoured(source) else "keys.gpg")
        keys.write_bytes(_read_keys(source))
        (root / "apt.conf").write_text(_CONFIG.format(root=root, architecture=architecture))
        (root / "etc" / "sources.list").write_text(render_sources(source, keys=str(keys)))

    def update(self) -> None:
        """Fetch the lists and check their signatures. Raises Unreachable."""
        try:
            self._run("apt-get", "-q", "update")
        except CommandFailed as error:
            raise Unreachable(
                f"cannot read the lists of {self.source.mirror}: {_complaint(error)}",
                hint="check mirror, suite and keyring of `debian`, and this machine's way out (http_proxy)",
            ) from error

    def resolve(self, names: tuple[str, ...]) -> dict[str, LockedPackage]:
        """Return `names` and all that they depend on, by name. Raises BadInput for what apt cannot install."""
        if not names:
            return {}
        try:
            listed = self._run("apt-get", "-q", "-y", "--print-uris", "install", "--", *names)
        except CommandFailed as error:
            raise BadInput(
                f"cannot resolve packages {' '.join(names)}: {_complaint(error)}",
                hint="check the names in `packages`, and `debian.suite`",
            ) from error
        places = {}
        for found in _URI.finditer(listed):
            name, version, _ = unquote(found["file"].removesuffix(".deb")).split("_")
            places[name] = (version, found["uri"])
        shown = self._run("apt-cache", "show", "--", *(f"{name}={version}" for name, (version, _) in places.items()))
        packages = {one.name: one for one in self._stanzas(shown, places)}
        if lost := sorted(set(places) - set(packages)):
            raise Failed(f"cannot pin package {lost[0]}: apt shows no SHA-256 for it")
        return packages

    def _stanzas(self, shown: str, places: dict[str, tuple[str, str]]) -> Iterator[LockedPackage]:
        for stanza in shown.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Za-z0-9-]+: ", line))
            name, path = fields.get("Package", ""), fields.get("Filename", "")
            version, uri = places.get(name, ("", ""))
            plain = unquote(uri)
            if not path or version != fields["Version"] or not plain.endswith(path) or "SHA256" not in fields:
                continue
            yield LockedPackage(
                name=name,
                version=version,
                architecture=fields["Architecture"],
                mirror=plain.removesuffix(path).rstrip("/"),
                path=path,
                size=int(fields["Size"]),
                sha256=fields["SHA256"],
            )

    def _run(self, *argv: str) -> str:
        env = {**way_out(), "APT_CONFIG": str(self.root / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
        try:
            return run(Command(argv=argv, env=env, timeout=_PATIENCE)).text
        except CommandFailed as error:
            if error.status == 127:
                raise NotFound("cannot resolve Debian packages: there is no apt here", hint="install apt") from error
            raise


@contextlib.contextmanager
def private_apt(source: DebianSource, *, architecture: str) -> Iterator[PrivateApt]:
    """Hand out apt in a root that is removed at the end; others may look into it, for apt fetches as its own user."""
    root = Path(tempfile.mkdtemp(prefix="nebh-apt-"))
    try:
        root.chmod(0o755)
        yield PrivateApt(root, source, architecture=architecture)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def render_sources(source: DebianSource, *, keys: str) -> str:
    """Return a sources.list: the suite, its updates, its security updates."""
    components = " ".join(source.components)
    lines = [f"deb [signed-by={keys}] {source.mirror} {source.suite} {components}"]
    if source.security:
        lines.append(f"deb [signed-by={keys}] {source.mirror} {source.suite}-updates {components}")
        lines.append(f"deb [signed-by={keys}] {source.security} {source.suite}-security {components}")
    return "\n".join(lines) + "\n"


def fetch_packages(
    packages: tuple[LockedPackage, ...], downloads: ObjectFolder, *, progress: Callable[[str], None]
) -> None:
    """Have every package in `downloads`, by its SHA-256. Raises Failed naming what could not be had, BadInput for bytes
    that are not the locked ones."""
    lacking = [one for one in packages if not downloads.has(one.sha256)]
    for start in range(0, len(lacking), _BATCH):
        progress(f"fetching packages, {start} of {len(lacking)}")
        _fetch_batch(lacking[start : start + _BATCH], downloads)


def _fetch_batch(packages: list[LockedPackage], downloads: ObjectFolder) -> None:
    with tempfile.TemporaryDirectory(prefix="nebh-fetch-") as folder:
        Path(folder).chmod(0o755)
        words: list[str] = []
        for one in packages:
            uri = f"{one.mirror}/{one.path}".replace("+", "%2b").replace("~", "%7e")
            words += [uri.replace("file:/", "copy:/"), f"{folder}/{one.sha256}", f"SHA256:{one.sha256}"]
        config = Path(folder) / "apt.conf"
        config.write_text('Acquire::Retries "3";\nDir::Etc::main "/dev/null";\nDir::Etc::parts "/dev/null";\n')
        problem = ""
        try:
            env = {**way_out(), "APT_CONFIG": str(config)}
            run(Command(argv=(_HELPER, "download-file", *words), env=env, timeout=_PATIENCE))
        except CommandFailed as error:
            problem = _complaint(error)
        for one in packages:
            _adopt(one, Path(folder) / one.sha256, downloads, problem)


def _adopt(package: LockedPackage, path: Path, downloads: ObjectFolder, problem: str) -> None:
    what = f"package {package.name} {package.version}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise Failed(
            f"cannot fetch {what} from {package.mirror}: {problem or error.strerror}",
            hint="a mirror keeps only the newest version: `nebh image lock` pins that one, or name an archive that "
            "keeps all (snapshot.debian.org) as `debian.mirror`",
        ) from error
    try:
        downloads.put(package.sha256, package.size, read_chunks(descriptor))
    except BadInput as error:
        raise BadInput(
            f"cannot use {what}: {package.mirror} sent other bytes than the lock says: {error.message}",
            hint="if you trust the mirror's new bytes, run `nebh image lock` and look at the difference",
        ) from error


def way_out() -> dict[str, str]:
    """Return the environment's variables about proxies."""
    return {name: os.environ[name] for name in PROXIES if name in os.environ}


def _read_keys(source: DebianSource) -> bytes:
    if source.keyring:
        try:
            return Path(source.keyring).read_bytes()
        except OSError as error:
            raise NotFound(f"cannot read the keyring {source.keyring}: {error.strerror}") from error
    keys = importlib.resources.files("nebh.images.declared").joinpath("keys", f"{source.suite}.asc")
    if not keys.is_file():
        raise BadInput(
            f"cannot check the lists of suite {source.suite}: Nebh carries no keys for it",
            hint="name a file with the keys that may sign: debian: {keyring: ./keys.asc}",
        )
    return keys.read_bytes()


def _is_armoured(source: DebianSource) -> bool:
    return not source.keyring or source.keyring.endswith(".asc")


def _complaint(error: CommandFailed) -> str:
    """Return what apt said, its `E:` lines first."""
    lines = [line[2:].strip() for line in error.stderr.splitlines() if line.startswith("E:")]
    return "; ".join(lines[:5]) or error.stderr.strip()[-500:] or f"it ended with status {error.status}"
