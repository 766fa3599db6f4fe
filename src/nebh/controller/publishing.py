"""Publishing: compare-and-swap of the signed set, verified before it replaces anything."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

from nebh.controller.core import Core
from nebh.controller.entering import ci_services
from nebh.controller.identity import Caller, Unidentified
from nebh.controller.repository import TIMESTAMP
from nebh.host import faults
from nebh.host.files import write_atomic
from nebh.model.api import Published, PublishRequest, Who
from nebh.model.errors import BadInput, Conflict, Refused
from nebh.model.event import Severity
from nebh.model.names import NAME_PATTERN
from nebh.model.trust import TrustedSet
from nebh.planning.operate import may_publish
from nebh.state.history import add_history
from nebh.state.publications import swap_publication

_RELEASE_ROLE = re.compile(rf"[1-9][0-9]{{0,15}}\.rel-({NAME_PATTERN})(?:\.[0-9]{{1,6}})?\.json\Z")


async def publish(core: Core, request: PublishRequest, *, caller: Caller) -> Published:
    """Let a new set stand in the place of `request.base`; nodes are woken. The first publication needs no operator:
    there is none known yet. Raises Conflict, Refused, BadInput; then what stood stands on."""
    if caller.kind is Who.CI:
        _check_ci(core, request, caller)
    elif core.trusted is not None and caller.kind is not Who.OPERATOR:
        raise Unidentified("cannot publish: only operators may", again=True, hint="sign with an operator key")
    async with core.publishing:
        _check_base(core, request.base)
        staging = core.repository.new_staging()
        try:
            await asyncio.to_thread(core.repository.stage, request, staging)
            if caller.kind is Who.CI:
                await asyncio.to_thread(_complete, core, staging)
            trusted, timestamp = await asyncio.to_thread(_verify, core, staging)
            await asyncio.to_thread(core.repository.install, staging)
            _swap(core, base=core.snapshot, trusted=trusted, timestamp=timestamp, by=caller.name)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
    core.wake_nodes()
    return Published(snapshot=core.snapshot, versions=trusted.versions)


def _check_ci(core: Core, request: PublishRequest, caller: Caller) -> None:
    """A CI key publishes role files of its own services and releases they list. Raises Refused."""
    mine = ci_services(core, caller.key)
    for name in request.metadata:
        found = _RELEASE_ROLE.match(name)
        if found is None or found[1] not in mine:
            raise Refused(f"cannot publish {name[:80]!r} with a CI key", rule="O2", hint="an operator may")
    for path in request.targets:
        parts = path.split("/")
        if parts[0] != "release" or len(parts) != 3 or parts[1] not in mine:
            raise Refused(f"cannot publish {path[:80]!r} with a CI key", rule="O2", hint="an operator may")


def _complete(core: Core, staging: Path) -> None:
    """Sign the snapshot and timestamp that a CI key's release needs. Raises Refused where this controller may not."""
    version = core.trusted.versions["root"] if core.trusted else 0
    root = core.repository.trusted_root(version=version)
    if root is None:
        raise Refused("cannot publish with a CI key: nothing was published before", rule="O2")
    for name, data in core.tools.complete(staging, core.repository.folder, root=root).items():
        write_atomic(staging / "metadata" / name, data)


def _check_base(core: Core, base: dict[str, int]) -> None:
    """O3."""
    verdict = may_publish(base=base, current=core.trusted.versions if core.trusted else {})
    if not verdict.ok:
        raise Conflict(f"cannot publish: {verdict.reason}", hint=verdict.hint)


def _verify(core: Core, staging: Path) -> tuple[TrustedSet, bytes]:
    old = core.trusted
    folders = (staging, core.repository.folder)
    root = core.repository.trusted_root(version=old.versions["root"] if old else 0)
    if root is None:
        root = _first_root(staging)
    place = staging / "metadata" / TIMESTAMP
    if _timestamp_version(place) <= (old.versions["timestamp"] if old else 0):
        write_atomic(place, sign_timestamp(core, folders))
    trusted = core.tools.verify(folders, root=root)
    if old is not None:
        _check_newer(old, trusted)
    core.repository.check_staged(staging, old=old, new=trusted)
    return trusted, place.read_bytes()


def _timestamp_version(place: Path) -> int:
    """Return the version of a staged timestamp, -1 when there is none: it is verified later."""
    try:
        return int(json.loads(place.read_bytes())["signed"]["version"])
    except FileNotFoundError:
        return -1
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput("cannot publish: timestamp.json is no timestamp") from error


def _first_root(staging: Path) -> bytes:
    try:
        return (staging / "metadata" / "1.root.json").read_bytes()
    except FileNotFoundError:
        raise BadInput("cannot publish: the first publication needs 1.root.json") from None


def _check_newer(old: TrustedSet, new: TrustedSet) -> None:
    for role, version in old.versions.items():
        if role in new.versions and new.versions[role] < version:
            raise Refused(
                f"cannot publish: {role} would go back from version {version} to {new.versions[role]}",
                rule="N2",
                hint="build upon what is published now",
            )
    if new.versions["snapshot"] == old.versions["snapshot"] and new.digests["snapshot"] != old.digests["snapshot"]:
        raise Conflict("cannot publish: this snapshot version stands with other bytes")


def sign_timestamp(core: Core, folders: tuple[Path, ...]) -> bytes:
    """Return a timestamp by the controller's key for the newest snapshot in `folders`."""
    found = [
        (int(path.name.split(".")[0]), path)
        for folder in folders
        for path in (folder / "metadata").glob("*.snapshot.json")
        if folder != core.repository.folder or path.name == f"{core.snapshot}.snapshot.json"
    ]
    if not found:
        raise BadInput("cannot publish: there is no snapshot")
    version = (core.trusted.versions["timestamp"] if core.trusted else 0) + 1
    return core.tools.timestamp(snapshot=max(found)[1].read_bytes(), version=version)


async def renew_timestamp(core: Core) -> None:
    """Replace timestamp.json by a fresh one for the same snapshot. Raises Refused when the key may not."""
    async with core.publishing:
        staging = core.repository.new_staging()
        try:
            await asyncio.to_thread((staging / "metadata").mkdir, parents=True, exist_ok=True)
            trusted, timestamp = await asyncio.to_thread(_verify, core, staging)
            _swap(core, base=core.snapshot, trusted=trusted, timestamp=timestamp, by="")
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)


def _swap(core: Core, *, base: int, trusted: TrustedSet, timestamp: bytes, by: str) -> None:
    now = core.now()
    with core.database.begin() as connection:
        swap_publication(connection, base=base, trusted=trusted, timestamp=timestamp, at=now)
        if by:
            detail = f"snapshot {trusted.versions['snapshot']}"
            add_history(connection, at=now, by=by, what="published", service="", detail=detail)
        faults.point("controller.publish.swap.before")
    faults.point("controller.publish.swap.after")
    core.trusted, core.timestamp = trusted, timestamp
    core.repository.point(timestamp)
    if by:
        core.report_event("published", Severity.INFO, f"snapshot {trusted.versions['snapshot']} was published by {by}")
