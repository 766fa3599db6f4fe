"""Images of a registry: skopeo fetches one into a scratch OCI layout, which is then read like any other."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from nebh.host.fence import FencedEnd, run_fenced
from nebh.host.reach import Place, Reach, parse_place, parse_proxy
from nebh.host.run import Command, CommandFailed, run
from nebh.model.errors import BadInput, Failed

HOSTS: Final = "NEBH_REGISTRY_HOSTS"
_REFERENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,400}\Z")
_LOOPBACK: Final = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?/")
# Inside its fence skopeo asks no proxy for a loopback address: nothing listens there.
_UNANSWERED: Final = re.compile(r"dial tcp ((?:127\.[0-9.]+|\[::1\]):[0-9]+): connect: connection refused")
# What skopeo needs to find a login; nothing else of the environment reaches it.
_PASSED: Final = ("HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG")
_TIMEOUT: Final = 1800.0
_MOST_HOSTS: Final = 16


def fetch_image(reference: str, *, into: Path, architecture: str) -> None:
    """Copy `reference` (registry/name:tag or @sha256:...) into the new OCI layout `into`. Plain HTTP and unknown
    certificates are accepted from a registry on this machine only. Internal addresses are reached only of the registry
    itself and of what NEBH_REGISTRY_HOSTS names. Raises BadInput, Failed."""
    name = reference.removeprefix("docker://")
    if _REFERENCE.match(name) is None:
        raise BadInput(
            f"cannot fetch the image {reference[:200]!r}: it is no reference", hint="write REGISTRY/NAME:TAG"
        )
    named = registry_places(name)
    command = copy_command(name, into=into, architecture=architecture)
    try:
        end = run_fenced(command, reach=_reach(named))
    except CommandFailed as error:
        if error.status == 127:
            raise Failed(
                f"cannot fetch the image {name}: skopeo is not installed", hint="apt install skopeo"
            ) from error
        raise Failed(f"cannot fetch the image {name}: it takes more than {_TIMEOUT:.0f} s") from error
    except Failed as error:
        hint = f"{error.hint}; or fetch it where that does no harm (skopeo copy docker://{name} oci:FOLDER:NAME)"
        raise Failed(f"cannot fetch the image {name}: {error.message}", hint=hint) from error
    if end.status != 0:
        raise _explain(name, named, end)


def registry_places(name: str) -> frozenset[Place]:
    """Return where the registry of a reference listens: what its writer named. Raises BadInput."""
    first, slash, _ = name.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first):
        first = "docker.io"
    try:
        return frozenset(parse_place(first, port=port) for port in (443, 80))
    except ValueError:
        raise BadInput(
            f"cannot fetch the image {name}: {first} is no registry", hint="write REGISTRY:PORT/NAME:TAG"
        ) from None


def copy_command(name: str, *, into: Path, architecture: str) -> Command:
    """Return the skopeo command line. Its signature policy is off: what counts is the digest that is signed with the
    release."""
    options = ("--insecure-policy", "--override-os", "linux", "--override-arch", architecture)
    verify = ("--src-tls-verify=false",) if _LOOPBACK.match(name) else ()
    return Command(
        argv=("skopeo", *options, "copy", "--quiet", *verify, f"docker://{name}", f"oci:{into}:image"),
        env={key: os.environ[key] for key in _PASSED if os.environ.get(key)},
        timeout=_TIMEOUT,
    )


def _reach(named: frozenset[Place]) -> Reach:
    allowed = [word for word in re.split(r"[,\s]+", os.environ.get(HOSTS, "")) if word]
    try:
        if len(allowed) > _MOST_HOSTS:
            raise ValueError(f"more than {_MOST_HOSTS} hosts")
        more = {parse_place(word, port=443) for word in allowed}
    except ValueError as error:
        raise BadInput(
            f"cannot read {HOSTS}: {error}",
            hint="write HOST or HOST:PORT, separated by commas; PORT is 443 when left out",
        ) from None
    given = {
        scheme: parse_proxy(value, name=f"{scheme.upper()}_PROXY")
        for scheme in ("http", "https")
        if (value := _variable(f"{scheme.upper()}_PROXY"))
    }
    return Reach(named=named | more, proxies=given, direct=_variable("NO_PROXY"))


def _variable(name: str) -> str:
    return os.environ.get(name.lower()) or os.environ.get(name, "")


def _explain(name: str, named: frozenset[Place], end: FencedEnd) -> Failed:
    """Return the error of a fetch that failed: what was refused on the way says more than skopeo can."""
    registry = next(place.host for place in named)
    unanswered = _UNANSWERED.search(end.stderr)
    for one in end.refused:
        return _led_inside(name, registry, str(one.place), one.address)
    if unanswered is not None and not any(
        unanswered[1].endswith(f":{place.port}") for place in named if place.loopback
    ):
        return _led_inside(name, registry, unanswered[1], "")
    why = end.stderr.strip().rpartition("\n")[2][-600:]
    trouble = next((f" ({one})" for one in end.trouble if one not in why), "")
    return Failed(
        f"cannot fetch the image {name}: {why}{trouble}",
        hint=f"try `skopeo inspect docker://{name}`; a login comes from `skopeo login`",
    )


def _led_inside(name: str, registry: str, place: str, address: str) -> Failed:
    stands = f" ({address})" if address and address not in place else ""
    return Failed(
        f"cannot fetch the image {name}: the registry {registry} leads to {place}{stands}, an internal address",
        hint=f"refused, since a registry of strangers could ask your network so; if it is yours: {HOSTS}={place}",
    )


def copy_layout(layout: str, to: str) -> None:
    """Copy the image `FOLDER:NAME` of an OCI layout to another of skopeo's places. Raises Failed."""
    argv = ("skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}", to)
    try:
        run(Command(argv=argv, timeout=_TIMEOUT))
    except CommandFailed as error:
        why = "skopeo is not installed" if error.status == 127 else error.stderr.strip().rpartition("\n")[2][-600:]
        raise Failed(f"cannot write {to}: {why}", hint="apt install skopeo" if error.status == 127 else "") from error
