"""Python packages as wheels: chosen by pip for the image's Python, pinned by hash, never built or run here."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nebh.host.run import Command, CommandFailed, run
from nebh.images.declared.apt import way_out
from nebh.images.objects import ObjectFolder, hash_file, read_chunks
from nebh.model.build import LockedPackage, LockedWheel
from nebh.model.errors import BadInput, Failed

_PATIENCE: Final = 900.0
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC: Final = range(5, 37)
_INTERPRETER: Final = re.compile(r"python3\.(\d+)(?:-minimal)?\Z")
_WHEEL: Final = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)-.+\.whl\Z")
_PASSED: Final = ("HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


def find_python(packages: tuple[LockedPackage, ...]) -> str:
    """Return the version of the image's Python, as `3.11`, or "" when no package brings one."""
    for one in packages:
        found = _INTERPRETER.match(one.name)
        if found and not one.build:
            return f"3.{found[1]}"
    return ""


def site_folder(python: str) -> str:
    """Return where wheels go."""
    return f"usr/local/lib/python{python}/dist-packages"


def lock_wheels(
    requirements: tuple[str, ...], downloads: ObjectFolder, *, python: str, architecture: str
) -> tuple[LockedWheel, ...]:
    """Choose a wheel for each requirement and all it needs. Raises BadInput when pip finds none."""
    with tempfile.TemporaryDirectory(prefix="nebh-pip-") as name:
        folder = Path(name)
        listed = folder / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n")
        try:
            _download(folder / "wheels", listed, python=python, architecture=architecture)
        except CommandFailed as error:
            raise BadInput(
                f"cannot find wheels for {' '.join(requirements)}: {_complaint(error)}",
                hint=f"only wheels for Python {python} on {architecture} are taken: nothing of a package is run to "
                "install it",
            ) from error
        return tuple(sorted(_keep(folder / "wheels", downloads), key=lambda one: one.filename))


def fetch_wheels(
    wheels: tuple[LockedWheel, ...],
    downloads: ObjectFolder,
    *,
    python: str,
    architecture: str,
    progress: Callable[[str], None],
) -> None:
    """Have every wheel in `downloads`. Raises Failed when the index has no file with a locked hash."""
    lacking = [one for one in wheels if not downloads.has(one.sha256)]
    if not lacking:
        return
    progress(f"fetching {len(lacking)} wheels")
    with tempfile.TemporaryDirectory(prefix="nebh-pip-") as name:
        folder = Path(name)
        listed = folder / "requirements.txt"
        listed.write_text("".join(f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in lacking))
        try:
            _download(
                folder / "wheels", listed, "--no-deps", "--require-hashes", python=python, architecture=architecture
            )
        except CommandFailed as error:
            raise Failed(
                f"cannot fetch wheels: the index has no file with a locked hash: {_complaint(error)}",
                hint="`nebh image lock` chooses anew",
            ) from error
        _keep(folder / "wheels", downloads)
    for one in lacking:
        if not downloads.has(one.sha256):
            raise Failed(f"cannot fetch {one.filename}: the index sent another file", hint="run `nebh image lock`")


def _download(dest: Path, requirements: Path, *options: str, python: str, architecture: str) -> None:
    machine = _MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in reversed(_GLIBC)]
    platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    env = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name in _PASSED}
    argv = (
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--only-binary=:all:", "--python-version", python, "--implementation", "cp", "--dest", str(dest)),
        *(word for name in platforms for word in ("--platform", name)),
        *options,
        *("-r", str(requirements)),
    )
    run(Command(argv=argv, env={**way_out(), **env}, timeout=_PATIENCE))


def _keep(folder: Path, downloads: ObjectFolder) -> list[LockedWheel]:
    found = []
    for path in sorted(folder.iterdir()):
        named = _WHEEL.match(path.name)
        if named is None:
            raise Failed(f"cannot use {path.name}: it is no wheel")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        digest = hash_file(descriptor)
        size = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, 0, os.SEEK_SET)
        downloads.put(digest, size, read_chunks(descriptor))
        found.append(
            LockedWheel(
                name=named["name"].replace("_", "-").lower(),
                version=named["version"],
                filename=path.name,
                sha256=digest,
            )
        )
    return found


def _complaint(error: CommandFailed) -> str:
    lines = [line.removeprefix("ERROR: ") for line in error.stderr.splitlines() if line.startswith("ERROR")]
    return "; ".join(lines[-2:]) or error.stderr.strip()[-500:]
