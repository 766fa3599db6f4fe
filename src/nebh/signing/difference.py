"""Everything that a signature would change, old -> new, taken from the bytes and not from the wish (O2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuf.api._payload import Root, Targets

from nebh.model.node import NodeList, Settings
from nebh.model.policy import Policy
from nebh.model.secret import SecretList
from nebh.signing import roles
from nebh.signing.keys import short
from nebh.signing.trusted_set import NODES, SETTINGS, service_of
from nebh.wire import codec


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing, its values as people read them ("" = not there). widens: allows something not allowed before."""

    what: str
    old: str
    new: str
    widens: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.old or '(none)'} -> {self.new or '(none)'}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """changes: keys, nodes, settings, releases, other files. policies: each changed one as (old, new), None = not
    there; `planning.plan_diff.compare_policies` says what of it widens."""

    changes: tuple[Change, ...] = ()
    policies: tuple[tuple[Policy | None, Policy | None], ...] = ()

    @property
    def widening(self) -> tuple[Change, ...]:
        """The changes that are to be shown apart and asked for."""
        return tuple(change for change in self.changes if change.widens)


@dataclass(frozen=True, kw_only=True)
class View:
    """One side of a comparison: bodies of the roles and bytes of the top-level target files."""

    root: Root
    targets: Targets
    releases: Mapping[str, Targets]
    files: Mapping[str, bytes]


def compare(old: View, new: View) -> Difference:
    """Return what differs between two sets."""
    changes = [*_keys(old, new), *_releases(old, new)]
    policies = []
    for path in sorted({*old.targets.targets, *new.targets.targets}):
        before, after = _content(old, path), _content(new, path)
        if before == after:
            continue
        if path.startswith("policy/"):
            policies.append((_policy(before), _policy(after)))
        elif path.startswith("config/"):
            # a layer takes effect by releases; old versions that are no longer kept are no news
            if before is None:
                changes.append(Change(what=f"config {path.removeprefix('config/')}", old="", new="signed"))
            elif after is not None:
                changes.append(Change(what=path, old=_size(before), new=_size(after), widens=True))
        elif path == NODES:
            changes += _nodes(before, after)
        elif path == SETTINGS:
            changes += _fields("settings", _plain(before, Settings), _plain(after, Settings))
        elif path.startswith("secrets/"):
            changes.append(_secret(path, before, after, names=_names(old) | _names(new)))
        else:
            changes.append(Change(what=path, old=_size(before), new=_size(after), widens=before is None))
    return Difference(changes=tuple(changes), policies=tuple(policies))


def _names(view: View) -> dict[str, str]:
    return {one["node_id"]: one["name"] for one in _plain(_content(view, NODES), NodeList).get("nodes", ())}


def _secret(path: str, before: bytes | None, after: bytes | None, *, names: dict[str, str]) -> Change:
    """Boxes say nothing to people: the version, and who may read it. More readers of what there was widens."""
    old, new = _plain(before, SecretList), _plain(after, SecretList)

    def say(one: dict[str, Any]) -> str:
        readers = sorted(names.get(node, node[:12]) for node in one["boxes"]) if one else []
        return f"version {one['version']} for {', '.join(readers) or 'no node'}" if one else ""

    widens = bool(old) and bool(set(new.get("boxes", ())) - set(old["boxes"]))
    what = path.removeprefix("secrets/").removesuffix(".json")
    return Change(what=f"secret {what}", old=say(old), new=say(new), widens=widens)


def _content(view: View, path: str) -> bytes | None:
    return view.files[path] if path in view.targets.targets else None


def _policy(data: bytes | None) -> Policy | None:
    return None if data is None else codec.decode(data, Policy, what="a policy", limit=4 << 20)


def _plain(data: bytes | None, kind: type) -> dict[str, Any]:
    if data is None:
        return {}
    found: dict[str, Any] = codec.to_plain(codec.decode(data, kind, what=kind.__name__, limit=4 << 20))
    return found


def _size(data: bytes | None) -> str:
    return "" if data is None else f"{len(data)} bytes"


def _keys(old: View, new: View) -> Iterator[Change]:
    before, after = _key_holders(old), _key_holders(new)
    for who in sorted({*before, *after}):
        for public in sorted(before.get(who, set()) - after.get(who, set())):
            yield Change(what=f"key of {who}", old=short(public), new="")
        for public in sorted(after.get(who, set()) - before.get(who, set())):
            # The role of a new service brings the operators' keys along: nothing that was there is opened.
            yield Change(
                what=f"key of {who}", old="", new=short(public), widens=who in before or public not in _operators(old)
            )


def _operators(view: View) -> tuple[str, ...]:
    return roles.keys_of(view.root, "targets")


def _key_holders(view: View) -> dict[str, set[str]]:
    found = {role: set(roles.keys_of(view.root, role)) for role in view.root.roles}
    delegations = view.targets.delegations
    for name, role in (delegations.roles or {}).items() if delegations else ():
        assert delegations is not None
        # Under a new name it is still the same right: the releases of that service.
        who = f"releases of {service_of(name)}"
        found.setdefault(who, set()).update(str(delegations.keys[k].keyval["public"]) for k in role.keyids)
    return found


def _releases(old: View, new: View) -> Iterator[Change]:
    before, after = _listed(old), _listed(new)
    newest: dict[str, int] = {}
    for path in before:
        service, counter = _release(path)
        newest[service] = max(newest.get(service, 0), counter)
    for path in sorted({*before, *after}, key=_release):
        service, counter = _release(path)
        if path not in after:
            yield Change(what=f"release {counter} of {service}", old="listed", new="")
        elif path not in before:
            again = counter <= newest.get(service, 0)
            yield Change(what=f"release {counter} of {service}", old="", new="listed", widens=again)
        elif before[path] != after[path]:
            what = f"release {counter} of {service}"
            yield Change(what=what, old=before[path][:12], new=after[path][:12], widens=True)


def _listed(view: View) -> dict[str, str]:
    return {
        path: str(info.hashes.get("sha256", ""))
        for body in view.releases.values()
        for path, info in body.targets.items()
    }


def _release(path: str) -> tuple[str, int]:
    parts = path.removesuffix(".json").split("/")
    return (parts[1], int(parts[2])) if len(parts) == 3 and parts[2].isdigit() else (path, 0)


def _nodes(before: bytes | None, after: bytes | None) -> Iterator[Change]:
    old = {one["node_id"]: one for one in _plain(before, NodeList).get("nodes", ())}
    new = {one["node_id"]: one for one in _plain(after, NodeList).get("nodes", ())}
    for node_id in sorted({*old, *new}):
        if node_id not in new:
            yield Change(what=f"node {old[node_id]['name']}", old=old[node_id]["status"], new="")
        elif node_id not in old:
            one = new[node_id]
            groups = f" in {', '.join(one['groups'])}" if one["groups"] else ""
            yield Change(what=f"node {one['name']}", old="", new=f"{one['status']}{groups}", widens=True)
        else:
            yield from _fields(f"node {new[node_id]['name']}", old[node_id], new[node_id])


_NARROWS = {("status", "revoked")}
_NEUTRAL = {"poll", "stale_after", "name"}


def _fields(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Fields of nodes and settings: keys, groups, addresses, programs. A list that only shrank narrows."""
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        shrank = isinstance(before, list) and isinstance(after, list) and all(item in before for item in after)
        widens = not shrank and name not in _NEUTRAL and (name, after) not in _NARROWS
        yield Change(what=f"{what}: {name}", old=_text(before), new=_text(after), widens=widens)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
