"""Files that change under running instances: which they are, how they are replaced, and how the program is told."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Final

from nebh.drivers.containers.base import PlacedFile
from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.model.config import OnChange
from nebh.model.errors import Broken, Failed, NebhError
from nebh.model.instance import Status
from nebh.model.release import Release
from nebh.model.work import InstanceRow, Role, TransactionRow
from nebh.planning import live

RELOAD_TIMEOUT: Final = 30_000
"""Milliseconds that a reload command may take."""
Rows = tuple[InstanceRow, ...]


def placed(context: Context, release: Release, *, live_ones: bool) -> dict[str, PlacedFile]:
    """Return the files of a release by path, in its order: those that may be replaced under an instance, or the others."""
    texts = context.configs.files(release)
    owner = context.uid_base(release.service) + release.user
    return {
        one.path: PlacedFile(data=texts[one.path], mode=one.mode, owner=owner)
        for one in release.files
        if live.is_live(one.on_change) is live_ones
    }


def goes_live(context: Context, row: TransactionRow, release: Release) -> bool:
    """Tell whether a transaction only replaces files under the instances that run. Asked once, in PREPARING: what is
    journalled then holds to the end."""
    old = context.accepted.release(row.service, row.epoch, row.from_counter) if row.from_counter else None
    if row.kind != "deploy" or old is None or context.policy(row.service) != context.effective(row.service):
        return False
    if not live.differs_in_texts_alone(old, release):
        return False
    try:
        changed = changed_paths(context, old, release)
    except (NebhError, OSError):
        return False  # of what cannot be compared any more nothing is known
    rows = serving(context, row)
    if live.what_follows(old, release, changed) is OnChange.RESTART or len(rows) != row.replicas:
        return False
    wanted = tuple(sorted(one.path for one in release.files if live.is_live(one.on_change)))
    containers = context.drivers.containers
    return all(
        (one.epoch, one.counter) == (old.epoch, old.counter)
        and containers.observe(one.id).status is Status.RUNNING
        and containers.live_paths(one.id) == wanted
        for one in rows
    )


def changed_paths(context: Context, old: Release, new: Release) -> frozenset[str]:
    """Return the paths whose texts differ on this node."""
    before, after = context.configs.files(old), context.configs.files(new)
    return frozenset(path for path, text in after.items() if before.get(path) != text)


def serving(context: Context, row: TransactionRow) -> Rows:
    """Return the instances whose files a live transaction replaces."""
    return tuple(one for one in context.work.instances(row.service) if one.role is Role.SERVING)


def both_releases(context: Context, row: TransactionRow) -> tuple[Release, Release]:
    """Return (the release before, the new one). Raises Broken."""
    old = context.accepted.release(row.service, row.epoch, row.from_counter)
    new = context.accepted.release(row.service, row.epoch, row.to_counter)
    if old is None or new is None:
        raise Broken(f"cannot find releases {row.from_counter} and {row.to_counter} of {row.service}")
    return old, new


@contextlib.contextmanager
def in_place(context: Context, rows: Rows) -> Iterator[None]:
    """Let nobody make these instances anew meanwhile: they would get the files that the journal names, not those that
    it is about to name."""
    with contextlib.ExitStack() as stack:
        for one in sorted(rows, key=lambda row: row.id):
            stack.enter_context(context.place(one.id))
        yield


def give(context: Context, row: TransactionRow, one: InstanceRow, release: Release, *, prefix: str) -> None:
    """Have an instance see the files of a release. Raises Failed; then it sees those it saw."""
    files = placed(context, release, live_ones=True)
    if files:
        with effect(context, row.id, f"{prefix}.give"):
            context.drivers.containers.give_files(one.id, files)


def tell(
    context: Context, row: TransactionRow, one: InstanceRow, release: Release, changed: Collection[str], *, prefix: str
) -> None:
    """Tell the program that files changed: commands in the order of the files, then signals, each once. Raises Failed
    when a command fails."""
    files = [file for file in release.files if file.path in changed and file.on_change is OnChange.RELOAD]
    commands = {file.argv: file.path for file in reversed(files) if file.argv}
    for argv, path in reversed(commands.items()):
        with effect(context, row.id, f"{prefix}.tell"):
            result = context.drivers.containers.check(one.id, argv, RELOAD_TIMEOUT)
        if not result.ok:
            raise Failed(
                f"the reload command of {path} failed in {one.id}: {result.detail}",
                hint=f"`nebh logs {row.service}` shows what the program said",
            )
    for name in sorted({file.signal for file in files if file.signal}):
        with effect(context, row.id, f"{prefix}.tell"):
            context.drivers.containers.signal(one.id, name)
