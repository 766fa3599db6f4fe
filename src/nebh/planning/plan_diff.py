"""What a deploy would change, field by field, and what of it widens (O2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from nebh.model.backup import BackupRule
from nebh.model.image import EntryType, TreeEntry, TreeManifest
from nebh.model.policy import Policy
from nebh.model.quantities import render_duration, render_size
from nebh.model.release import Release
from nebh.model.service import Placement

_NOT_COMPARED = {"cluster_id", "service", "version", "signed_at", "built_from", "counter"}
_SIZES = {"memory", "disk", "log", "shm", "tmp", "image_bytes", "bytes", "manifest_bytes"}
_DURATIONS = {"rollback_window", "bake", "drain", "grace", "interval", "timeout", "startup_timeout"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field, its values as people read them ("" = not there). widens: allows something not allowed before."""

    field: str
    old: str
    new: str
    widens: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.old or '(none)'} -> {self.new or '(none)'}"


def _grows(old: Any, new: Any) -> bool:
    return bool(new > old)


def _shrinks(old: Any, new: Any) -> bool:
    return bool(new < old)


def _turned_on(old: Any, new: Any) -> bool:
    return bool(new) and not old


def _turned_off(old: Any, new: Any) -> bool:
    return bool(old) and not new


def _less_capped(old: Any, new: Any) -> bool:
    return bool(old != 0 and (new == 0 or new > old))


def _adds(old: Any, new: Any) -> bool:
    return bool(set(new) - set(old))


def _never(old: Any, new: Any) -> bool:  # noqa: ARG001 - the shape of a rule
    return False


def _always(old: Any, new: Any) -> bool:
    return bool(old != new)


_Widens = Callable[[Any, Any], bool]
# Every field of a policy that can differ, and when a difference widens it. A test holds that none is missing.
WIDENS: Mapping[str, _Widens] = {
    "epoch": _always,
    "state": _never,
    "placement.mode": lambda old, new: old != new and new.value == "spread",
    "placement.max_per_node": _grows,
    "replicas.count": _never,
    "replicas.min": _shrinks,
    "replicas.max": _grows,
    "limits.memory": _grows,
    "limits.cpu": _less_capped,
    "limits.pids": _grows,
    "limits.disk": _grows,
    "limits.log": _grows,
    "limits.shm": _grows,
    "limits.tmp": _grows,
    "limits.image_bytes": _grows,
    "limits.image_entries": _grows,
    "net.routes": _adds,
    "net.ports": lambda old, new: _adds(old.items(), new.items()),
    "net.connects": _adds,
    "net.egress": _adds,
    "volumes": _adds,
    "secrets": _adds,
    "backup": _always,
    "caps": _adds,
    "lint_exceptions": _adds,
    "checks_required": _turned_off,
    "on_failure_data": lambda old, new: old != new and new.value == "restore",
    "pins": _adds,
    "min_release": _shrinks,
    "rollback_window": _grows,
    "cgroup_view": _turned_on,
    "tmp_exec": _turned_on,
}
_WHOLE = {"backup"}
"""What is there or is not, and is compared as one."""
_PLACES = {"placement.groups", "placement.nodes"}


def compare_policies(old: Policy | None, new: Policy) -> tuple[Change, ...]:
    """Return what differs. A new service (old None) widens nothing that was there: all its fields are just new."""
    before, after = fields_of(old), fields_of(new)
    widened_places = old is not None and _admits_more(old.placement, new.placement)
    found = []
    for name, value in after.items():
        if old is not None and before[name] == value:
            continue
        if old is None:
            widens = False
        elif name in _PLACES:
            widens = widened_places
        else:
            widens = WIDENS[name](before[name], value)
        was = "" if old is None else render_value(name, before[name])
        now = render_value(name, value)
        if was != now:
            found.append(Change(field=name, old=was, new=now, widens=widens))
    return tuple(found)


def compare_releases(old: Release | None, new: Release) -> tuple[Change, ...]:
    """Return what differs in what runs. Nothing in a release can widen: the policy bounds it."""
    before, after = fields_of(old), fields_of(new)
    names = sorted(before.keys() | after.keys())
    pairs = ((name, render_value(name, before.get(name)), render_value(name, after.get(name))) for name in names)
    return tuple(Change(field=name, old=was, new=now) for name, was, now in pairs if was != now)


@dataclass(frozen=True, kw_only=True)
class ImageDiff:
    """Paths, sorted. old_bytes, new_bytes: of all files; fetch_bytes: of contents that the old image does not have."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    old_bytes: int
    new_bytes: int
    fetch_bytes: int

    def __str__(self) -> str:
        paths = ((len(self.added), "added"), (len(self.removed), "removed"), (len(self.changed), "changed"))
        said = ", ".join(f"{count} {word}" for count, word in paths if count) or "the same files"
        sizes = f"{render_size(self.old_bytes)} -> {render_size(self.new_bytes)}"
        return f"{said}; {sizes}, {render_size(self.fetch_bytes)} new"


def compare_images(old: TreeManifest | None, new: TreeManifest) -> ImageDiff:
    """Return the difference of two root file systems (old None = nothing)."""
    before = {entry.path: entry for entry in old.entries} if old is not None else {}
    after = {entry.path: entry for entry in new.entries}
    held = _contents(before.values())
    fetched = {sha: size for sha, size in _contents(after.values()).items() if sha not in held}
    return ImageDiff(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(path for path in after.keys() & before.keys() if after[path] != before[path])),
        old_bytes=sum(entry.size for entry in before.values()),
        new_bytes=sum(entry.size for entry in after.values()),
        fetch_bytes=sum(fetched.values()),
    )


def _contents(entries: Any) -> dict[str, int]:
    files: list[TreeEntry] = [entry for entry in entries if entry.type is EntryType.FILE]
    return {entry.sha256: entry.size for entry in files}


def fields_of(value: object | None) -> dict[str, Any]:
    """Return comparable leaves by dotted path: scalars, tuples and dicts; dataclasses and string tables are entered."""
    found: dict[str, Any] = {}

    def enter(item: Any, path: str) -> None:
        if dataclasses.is_dataclass(item) and path not in _WHOLE:
            for one in dataclasses.fields(item):
                if path or one.name not in _NOT_COMPARED:
                    enter(getattr(item, one.name), f"{path}.{one.name}" if path else one.name)
        elif isinstance(item, dict) and path != "net.ports":
            for key in sorted(item):
                enter(item[key], f"{path}.{key}")
        elif path and path != "policy_min_version":
            found[path] = item

    if value is not None:
        enter(value, "")
    return found


def _admits_more(old: Placement, new: Placement) -> bool:
    if not old.groups and not old.nodes:
        return False
    if not new.groups and not new.nodes:
        return True
    return bool(set(new.groups) - set(old.groups) or set(new.nodes) - set(old.nodes))


def _render_backup(rule: BackupRule) -> str:
    kept = ", ".join(f"{getattr(rule.keep, one.name)} {one.name}" for one in dataclasses.fields(rule.keep))
    more = "".join(f", {name} {value}" for name, value in _rest_of(rule) if value)
    return f"to {rule.to}, every {render_duration(rule.every)}, keep {kept}{more}"


def _rest_of(rule: BackupRule) -> tuple[tuple[str, object], ...]:
    names = ("password", "ssh_key", "host_key", "port", "access_key", "secret_key", "region")
    listed = (("volumes", " ".join(rule.volumes)),)
    return (*listed, *((name, value) for name in names if (value := getattr(rule, name)) != 22))


def render_value(name: str, value: Any) -> str:
    """Return a leaf for people."""
    key = name.rpartition(".")[2]
    if value is None:
        return ""
    if isinstance(value, BackupRule):
        return _render_backup(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if key in _SIZES:
            return render_size(value)
        if key in _DURATIONS:
            return render_duration(value)
        return "no cap" if name == "limits.cpu" and value == 0 else str(value)
    if isinstance(value, tuple):
        return ", ".join(render_value(name, one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{one} {item}" for one, item in sorted(value.items()))
    if dataclasses.is_dataclass(value):
        defaults = {one.name: one.default for one in dataclasses.fields(value)}
        parts = ((one, getattr(value, one)) for one in defaults)
        return " ".join(f"{one}={render_value(one, item)}" for one, item in parts if item != defaults[one])
    return str(value)
