"""Images of a registry: skopeo fetches one into a scratch OCI layout, which is then read like any other."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from nebh.host.run import Command, CommandFailed, run
from nebh.model.errors import BadInput, Failed

_REFERENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,400}\Z")
_LOOPBACK: Final = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?/")
# What skopeo needs to find a login and the way out; nothing else of the environment reaches it.
_PASSED: Final = (
    "HOME",
    "XDG_RUNTIME_DIR",
    "REGISTRY_AUTH_FILE",
    "DOCKER_CONFIG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
_TIMEOUT: Final = 1800.0


def fetch_image(reference: str, *, into: Path, architecture: str) -> None:
    """Copy `reference` (registry/name:tag or @sha256:...) into the new OCI layout `into`. Plain HTTP and unknown
    certificates are accepted from a registry on this machine only. Raises BadInput, Failed."""
    name = reference.removeprefix("docker://")
    if _REFERENCE.match(name) is None:
        raise BadInput(
            f"cannot fetch the image {reference[:200]!r}: it is no reference", hint="write REGISTRY/NAME:TAG"
        )
    command = copy_command(name, into=into, architecture=architecture)
    try:
        run(command)
    except CommandFailed as error:
        if error.status == 127:
            raise Failed(
                f"cannot fetch the image {name}: skopeo is not installed", hint="apt install skopeo"
            ) from error
        if error.status is None:
            raise Failed(f"cannot fetch the image {name}: it takes more than {_TIMEOUT:.0f} s") from error
        why = error.stderr.strip().rpartition("\n")[2][-600:]
        raise Failed(
            f"cannot fetch the image {name}: {why}",
            hint=f"try `skopeo inspect docker://{name}`; a login comes from `skopeo login`",
        ) from error


def copy_command(name: str, *, into: Path, architecture: str) -> Command:
    """Return the skopeo command line. Its signature policy is off: what counts is the digest that is signed with the
    release."""
    options = ("--insecure-policy", "--override-os", "linux", "--override-arch", architecture)
    verify = ("--src-tls-verify=false",) if _LOOPBACK.match(name) else ()
    return Command(
        argv=("skopeo", *options, "copy", "--quiet", *verify, f"docker://{name}", f"oci:{into}:image"),
        env={key: value for key in _PASSED for value in (os.environ.get(key), os.environ.get(key.lower())) if value},
        timeout=_TIMEOUT,
    )


def copy_layout(layout: str, to: str) -> None:
    """Copy the image `FOLDER:NAME` of an OCI layout to another of skopeo's places. Raises Failed."""
    argv = ("skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}", to)
    try:
        run(Command(argv=argv, timeout=_TIMEOUT))
    except CommandFailed as error:
        why = "skopeo is not installed" if error.status == 127 else error.stderr.strip().rpartition("\n")[2][-600:]
        raise Failed(f"cannot write {to}: {why}", hint="apt install skopeo" if error.status == 127 else "") from error
