"""Service spec text -> ServiceSpec, with all problems at once."""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from typing import Any

from nebh.model.errors import SpecErrors
from nebh.model.names import RESERVED, is_name
from nebh.model.service import (
    Check,
    Connect,
    Health,
    ImageSource,
    Limits,
    OnFailure,
    Placement,
    PlacementMode,
    PolicyExtras,
    Replicas,
    ServiceSpec,
    SourceKind,
    Stop,
    Update,
)
from nebh.model.volume import OnFailureData
from nebh.spec.backup import parse_backup
from nebh.spec.checks import parse_check
from nebh.spec.config import parse_config, parse_files
from nebh.spec.data import check_placement, parse_data, parse_hooks, parse_volumes
from nebh.spec.document import parse_document
from nebh.spec.fields import SPEC
from nebh.spec.network import parse_egress, parse_ports, parse_routes
from nebh.spec.read import Reader, Value
from nebh.spec.rehearse import parse_rehearse
from nebh.spec.secrets import parse_secrets

_SOURCES = {
    "dir": SourceKind.DIRECTORY,
    "tar": SourceKind.TAR,
    "oci": SourceKind.OCI_LAYOUT,
    "docker-archive": SourceKind.DOCKER_ARCHIVE,
    "registry": SourceKind.REGISTRY,
    "door": SourceKind.DOOR,
    "manifest": SourceKind.MANIFEST,
    "build": SourceKind.BUILD,
}


def parse_spec(text: str, *, file: str, base: str = "/") -> ServiceSpec:
    """Return the spec written in `text`.

    file: its name in messages. base: absolute folder at which relative image paths start. Raises SpecErrors with
    every problem, ordered by line, each with line, column and field path.
    """
    node, unreadable = parse_document(text, file=file)
    if node is None:
        raise SpecErrors(unreadable)
    reader = Reader(file=file, root=SPEC)
    root = reader.read(node, SPEC, "")
    spec = _build(reader, root, base) if root is not None else None
    if reader.problems or spec is None:
        raise SpecErrors(tuple(sorted(reader.problems, key=lambda one: (one.line, one.column, one.path))))
    return spec


def _build(reader: Reader, root: Value, base: str) -> ServiceSpec:
    """Return the spec, as far as it can be understood; what cannot be is a problem of `reader`."""
    name = str(_data(root, "name", ""))
    _check_name(reader, root)
    ports = parse_ports(reader, root)
    egress = parse_egress(reader, root)
    volumes, mounts = parse_volumes(reader, root)
    secrets = parse_secrets(reader, root)
    placement, pinned = _placement(root), check_placement(reader, root, volumes)
    spec = ServiceSpec(
        name=name,
        image=_image(root, base),
        argv=_argv(reader, root),
        env=_env(reader, root),
        ports=ports,
        routes=parse_routes(reader, root, ports),
        connects=_connects(reader, root, name),
        egress=egress,
        needs=_needs(reader, root, name),
        limits=Limits(**{"memory": 0, **_plain(root, "limits")}),
        health=_health(reader, root, ports),
        stop=Stop(**_plain(root, "stop")),
        update=_update(reader, root, ports),
        replicas=_replicas(reader, root),
        placement=replace(placement, mode=pinned) if pinned is not None else placement,
        volumes=volumes,
        mounts=mounts,
        data=parse_data(reader, root, volumes),
        hooks=parse_hooks(reader, root, volumes),
        rehearse=parse_rehearse(reader, root, volumes),
        policy=_policy(root),
        secrets=secrets,
        backup=parse_backup(reader, root, volumes, secrets),
        config=parse_config(reader, root),
        files=parse_files(reader, root, base),
        **{key: _data(root, key, None) for key in ("user", "retention") if root.get(key) is not None},
    )
    _check_watched(reader, root, spec)
    return spec


def _data(value: Value, key: str, default: object) -> Any:
    found = value.get(key)
    return default if found is None else found.data


def _plain(root: Value, key: str) -> dict[str, Any]:
    """Return a section's scalars as keyword arguments."""
    section = root.get(key)
    return {name: one.data for name, one in section.data.items()} if section is not None else {}


def _words(value: Value | None) -> tuple[Any, ...]:
    return tuple(one.data for one in value.data) if value is not None else ()


def _check_name(reader: Reader, root: Value) -> None:
    name = root.get("name")
    if name is None:
        return
    if name.data in RESERVED:
        reader.complain(name, "name", f"`{name.data}` is a reserved word", "choose another name")
    elif not is_name(name.data):
        reader.complain(name, "name", f"`{name.data}` has two - in a row", "use single -")


def _image(root: Value, base: str) -> ImageSource:
    section = root.get("image")
    for key, kind in _SOURCES.items():
        found = section.get(key) if section is not None else None
        if found is not None:
            local = kind not in {SourceKind.REGISTRY, SourceKind.DOOR, SourceKind.MANIFEST}
            place = posixpath.normpath(posixpath.join(base, found.data)) if local else found.data
            return ImageSource(kind=kind, location=place)
    return ImageSource(kind=SourceKind.DIRECTORY, location="")


def _argv(reader: Reader, root: Value) -> tuple[str, ...]:
    value = root.get("argv")
    if value is not None and value.data and not str(value.data[0].data).startswith("/"):
        first = value.data[0]
        reader.complain(
            first,
            first.path,
            f"`{first.data}` is not an absolute path",
            "no shell and no PATH look it up: write where it is inside the image, such as /usr/bin/app",
        )
    return _words(value)


def _env(reader: Reader, root: Value) -> dict[str, str]:
    value = root.get("env")
    if value is None:
        return {}
    for key, one in value.data.items():
        if key.upper().startswith("NEBH_"):
            reader.complain(one, one.path, "names that start with NEBH_ are set by Nebh itself", "choose another name")
    return {key: one.data for key, one in value.data.items()}


def _connects(reader: Reader, root: Value, name: str) -> tuple[Connect, ...]:
    value = root.get("connects")
    found = []
    for one in value.data if value is not None else ():
        service, _, port = one.data.partition(":")
        if service == name:
            reader.complain(one, one.path, "a service need not connect to itself", "use 127.0.0.1 inside the instance")
        if int(port) > 65535:
            reader.complain(one, one.path, f"{port} is not a port", "ports go from 1 to 65535")
        found.append(Connect(service=service, port=int(port)))
    return tuple(found)


def _needs(reader: Reader, root: Value, name: str) -> tuple[str, ...]:
    value = root.get("needs")
    for one in value.data if value is not None else ():
        if one.data == name:
            reader.complain(one, one.path, "a service cannot wait for itself", "remove it")
    return _words(value)


def _health(reader: Reader, root: Value, ports: dict[str, int]) -> Health:
    section = root.get("health")
    if section is None:
        return Health()
    looks = {
        key: parse_check(reader, one, name=key, ports=ports)
        for key in ("startup", "readiness", "liveness")
        if (one := section.get(key)) is not None
    }
    return Health(**looks, startup_timeout=_data(section, "startup_timeout", Health.startup_timeout))


def _update(reader: Reader, root: Value, ports: dict[str, int]) -> Update:
    section = root.get("update")
    if section is None:
        return Update()
    values = {key: one.data for key, one in section.data.items() if key not in {"checks", "on_failure"}}
    checks = section.get("checks")
    found: list[Check] = []
    for number, one in enumerate(checks.data if checks is not None else (), start=1):
        name = str(_data(one, "name", f"check-{number}"))
        if name in {other.name for other in found}:
            reader.complain(one, one.path, f"two checks are named `{name}`", "give each its own name")
        found.append(parse_check(reader, one, name=name, ports=ports))
    bake = values.get("bake", Update.bake)
    for one, check in zip(checks.data if checks is not None else (), found, strict=True):
        if check.interval > bake:
            reader.complain(one, one.path, "its interval is longer than `bake`: it would never be looked at", "")
    return Update(**values, checks=tuple(found), on_failure=OnFailure(_data(section, "on_failure", "rollback")))


def _replicas(reader: Reader, root: Value) -> Replicas:
    value = root.get("replicas")
    if value is None:
        return Replicas()
    if isinstance(value.data, int):
        return Replicas(count=value.data, min=min(1, value.data), max=max(1, value.data))
    count, low = _data(value, "count", None), _data(value, "min", None)
    high = _data(value, "max", None)
    if count is None:
        count = low if low is not None else min(1, high if high is not None else 1)
    low = low if low is not None else min(1, count)
    high = high if high is not None else max(1, count)
    if not low <= count <= high:
        place = value.get("count") or value
        reader.complain(place, place.path, f"count {count} is not between min {low} and max {high}", "")
    return Replicas(count=count, min=low, max=high)


def _placement(root: Value) -> Placement:
    policy = root.get("policy")
    section = policy.get("placement") if policy is not None else None
    if section is None:
        return Placement()
    return Placement(
        groups=_words(section.get("groups")),
        nodes=_words(section.get("nodes")),
        mode=PlacementMode(_data(section, "mode", "spread")),
        max_per_node=_data(section, "max_per_node", Placement.max_per_node),
    )


def _policy(root: Value) -> PolicyExtras:
    section = root.get("policy")
    if section is None:
        return PolicyExtras()
    lists = {"lint_exceptions", "pins"}
    values: dict[str, Any] = {
        key: _words(one) if key in lists else one.data for key, one in section.data.items() if key != "placement"
    }
    if "on_failure_data" in values:
        values["on_failure_data"] = OnFailureData(values["on_failure_data"])
    return PolicyExtras(**values)


def _check_watched(reader: Reader, root: Value, spec: ServiceSpec) -> None:
    """A release that nobody looks at would be committed broken. Without a check of its own, a service with ports is
    ready when the first of them accepts a connection."""
    if any(re.match(r"health|update\.checks|policy", one.path) for one in reader.problems):
        return
    watched = spec.health.readiness is not None or spec.update.checks or "ports" in root.data
    if spec.policy.checks_required and not watched:
        place = root.get("health") or root.get("name") or root
        reader.complain(
            place,
            "health.readiness",
            "no ports, no health.readiness and no update.checks: a broken release could not be noticed",
            "add `health: {readiness: {exec: [/usr/bin/app, --check]}}`, or say `policy: {checks_required: false}`",
        )
