"""`backup:` of a spec: where volumes are copied to, when, and with which secrets."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from nebh.model.backup import BackupRetention, BackupRule
from nebh.model.secret import SecretWish
from nebh.model.volume import EXCLUSIVE, VolumeBound
from nebh.spec.read import Reader, Value

_SFTP = re.compile(r"sftp:[a-z_][a-z0-9_.-]*@(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-f:]+\]):/\S*\Z")
_S3 = re.compile(r"s3:https?://[A-Za-z0-9][A-Za-z0-9.:-]*/[A-Za-z0-9][^\s?#]*\Z")
_OF_STORE = {"sftp": ("ssh_key", "host_key"), "s3": ("access_key", "secret_key")}
_ALLOWED = {"sftp": {"ssh_key", "host_key", "port"}, "s3": {"access_key", "secret_key", "region"}, "path": set()}
_MADE_FOR_CONTAINERS = ("path", "env", "signal")


def parse_backup(
    reader: Reader, root: Value, bounds: tuple[VolumeBound, ...], secrets: tuple[SecretWish, ...]
) -> BackupRule | None:
    """Return the rule under `root`, None without one; what cannot be is a problem of `reader`."""
    value = root.get("backup")
    if value is None:
        return None
    plain: dict[str, Any] = {key: one.data for key, one in value.data.items() if key not in {"keep", "volumes"}}
    keep, volumes = value.get("keep"), value.get("volumes")
    _check_store(reader, value)
    _check_volumes(reader, value, bounds)
    _check_secrets(reader, root, value, {one.use.name for one in secrets})
    return BackupRule(
        **{"to": "", "password": "", **plain},
        keep=BackupRetention(**{key: one.data for key, one in keep.data.items()} if keep is not None else {}),
        volumes=tuple(one.data for one in volumes.data) if volumes is not None else (),
    )


def _check_store(reader: Reader, value: Value) -> None:
    place = value.get("to")
    if place is None:
        return
    to = str(place.data)
    kind = "sftp" if _SFTP.match(to) else "s3" if _S3.match(to) else "path"
    plain = to.startswith("/") and posixpath.normpath(to) == to and to != "/" and not to.startswith("//")
    if kind == "path" and not plain:
        hint = "such as /srv/backups, sftp:backup@host:/srv/backups or s3:https://host/bucket"
        reader.complain(place, place.path, f"`{to}` is no plain path, no SFTP and no S3 address", hint)
        return
    for key in _OF_STORE.get(kind, ()):
        if value.get(key) is None:
            reader.complain(value, f"{value.path}.{key}", f"an {kind.upper()} store needs `{key}`", "")
    for key in sorted({"ssh_key", "host_key", "port", "access_key", "secret_key", "region"} - _ALLOWED[kind]):
        found = value.get(key)
        if found is not None:
            reader.complain(found, found.path, f"`{key}` is for another kind of store than `{to}`", "remove it")


def _check_volumes(reader: Reader, value: Value, bounds: tuple[VolumeBound, ...]) -> None:
    known = {one.name: one.kind for one in bounds}
    listed = value.get("volumes")
    for one in listed.data if listed is not None else ():
        if one.data not in known:
            reader.complain(one, one.path, f"there is no volume `{one.data}`", "declare it below `volumes:`")
        elif known[one.data] not in EXCLUSIVE:
            reader.complain(one, one.path, f"a volume of class {known[one.data].value} is never copied", "remove it")
    if listed is None and not EXCLUSIVE & set(known.values()):
        hint = "declare a volume of class state, shared-state or bulk"
        reader.complain(value, value.path, "there is no volume to back up", hint)


def _check_secrets(reader: Reader, root: Value, value: Value, known: set[str]) -> None:
    section = root.get("secrets")
    for key in ("password", "ssh_key", "secret_key"):
        named = value.get(key)
        if named is None:
            continue
        if named.data not in known:
            hint = f"declare it: `secrets: [{{name: {named.data}}}]`"
            reader.complain(named, named.path, f"there is no secret `{named.data}`", hint)
        for one in section.data if section is not None else ():
            name = one.get("name")
            if name is None or name.data != named.data:
                continue
            for what in _MADE_FOR_CONTAINERS:
                given = one.get(what)
                if given is not None:
                    said = f"`{named.data}` is for backups: no container gets it"
                    reader.complain(given, given.path, said, f"remove `{what}`, or use another secret")
