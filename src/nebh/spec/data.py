"""Volumes, data rules and hooks of a spec."""

from __future__ import annotations

import posixpath
from typing import Any

from nebh.model.service import PlacementMode
from nebh.model.volume import (
    EXCLUSIVE,
    DataRules,
    Hook,
    HookPoint,
    Quiesce,
    Unavailable,
    VolumeBound,
    VolumeClass,
    VolumeMount,
)
from nebh.spec.read import Reader, Value

_TAKEN = ("/proc", "/dev", "/sys", "/tmp", "/run/secrets")  # what every container has of its own


def parse_volumes(reader: Reader, root: Value) -> tuple[tuple[VolumeBound, ...], tuple[VolumeMount, ...]]:
    """Return what the policy bounds and where the release mounts it, in the order of the file."""
    value = root.get("volumes")
    bounds: list[VolumeBound] = []
    mounts: list[VolumeMount] = []
    for name, one in value.data.items() if value is not None else ():
        path = _place(reader, one, [other.path for other in mounts])
        bounds.append(
            VolumeBound(
                name=name,
                kind=VolumeClass(_data(one, "class", "state")),
                size=_data(one, "size", 0),
                unavailable=Unavailable(_data(one, "unavailable", "stop")),
            )
        )
        user, read_only = _data(one, "user", 0), _data(one, "read_only", False)
        mounts.append(VolumeMount(name=name, path=path, user=user, read_only=read_only))
    return tuple(bounds), tuple(mounts)


def _place(reader: Reader, volume: Value, others: list[str]) -> str:
    value = volume.get("path")
    if value is None:
        return "/"
    path = str(value.data)
    if path == "/" or posixpath.normpath(path) != path or path.startswith("//"):
        reader.complain(
            value, value.path, f"`{path}` is not a plain path", "no //, no .., no / at its end: /var/lib/app"
        )
    elif any(path == taken or path.startswith(f"{taken}/") for taken in _TAKEN):
        reader.complain(value, value.path, f"`{path}` is the container's own", "choose a place such as /var/lib/app")
    for other in others:
        if path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/"):
            reader.complain(value, value.path, f"`{path}` and `{other}` lie in each other", "give each its own place")
    return path


def parse_data(reader: Reader, root: Value, bounds: tuple[VolumeBound, ...]) -> DataRules:
    """Return the data rules. Whoever declares volumes and nothing else reads and writes version 1."""
    value, owns = root.get("data"), any(one.kind in EXCLUSIVE for one in bounds)
    if value is None:
        return DataRules(reads=(1,), writes=1) if owns else DataRules()
    if not owns and "volumes" not in {one.path.partition(".")[0] for one in reader.problems}:
        reader.complain(value, "data", "there is no volume whose data this could be", "declare it below `volumes:`")
    writes = _data(value, "writes", 1)
    listed = value.get("reads")
    reads = tuple(sorted(one.data for one in listed.data)) if listed is not None else (writes,)
    if listed is not None and writes not in reads:
        hint = f"a restart finds what it wrote: add {writes}"
        reader.complain(listed, listed.path, f"it writes version {writes}, and cannot read it", hint)
    plain = {key: one.data for key, one in value.data.items() if key in {"keep_discarded", "snapshots"}}
    return DataRules(reads=reads, writes=writes, quiesce=_quiesce(reader, value), **plain)


def _quiesce(reader: Reader, data: Value) -> Quiesce | None:
    value = data.get("quiesce")
    if value is None:
        return None
    before, after = _argv(reader, value, "before"), _argv(reader, value, "after")
    return Quiesce(before=before, after=after, timeout=_data(value, "timeout", Quiesce.timeout))


def parse_hooks(reader: Reader, root: Value, bounds: tuple[VolumeBound, ...]) -> tuple[Hook, ...]:
    """Return the hooks in the order of the file, which is the order they run in at one point."""
    value = root.get("hooks")
    found: list[Hook] = []
    for one in value.data if value is not None else ():
        name, point = str(_data(one, "name", "")), HookPoint(_data(one, "at", "prepare"))
        if name in {other.name for other in found}:
            reader.complain(one, one.path, f"two hooks are named `{name}`", "give each its own name")
        if point is HookPoint.MIGRATE and not any(other.kind in EXCLUSIVE for other in bounds):
            hint = "declare the data below `volumes:`, or choose `at: prepare`"
            reader.complain(one, f"{one.path}.at", "there is no data that it could convert", hint)
        env = one.get("env")
        found.append(
            Hook(
                name=name,
                at=point,
                argv=_argv(reader, one, "argv"),
                env={key: item.data for key, item in env.data.items()} if env is not None else None,
                timeout=_data(one, "timeout", Hook.timeout),
            )
        )
    return tuple(found)


def check_placement(reader: Reader, root: Value, bounds: tuple[VolumeBound, ...]) -> PlacementMode | None:
    """Return `pinned` for a service that owns data: nobody may move it away from what it owns. Else None."""
    owned = next((one.name for one in bounds if one.kind in EXCLUSIVE), None)
    if owned is None:
        return None
    policy = root.get("policy")
    placement = policy.get("placement") if policy is not None else None
    mode = placement.get("mode") if placement is not None else None
    if mode is not None and mode.data == "spread":
        hint = "leave `mode` out: a service with data stays where it is"
        reader.complain(mode, mode.path, f"it owns the data of volume `{owned}` and cannot be moved away from it", hint)
    return PlacementMode.PINNED


def _argv(reader: Reader, section: Value, key: str) -> tuple[str, ...]:
    value = section.get(key)
    words = tuple(str(one.data) for one in value.data) if value is not None else ()
    if value is not None and words and not words[0].startswith("/"):
        hint = "no shell and no PATH look it up: write where it is inside the image, such as /usr/bin/app"
        reader.complain(value, value.path, f"`{words[0]}` is not an absolute path", hint)
    return words


def _data(value: Value, key: str, default: Any) -> Any:
    found = value.get(key)
    return default if found is None else found.data
