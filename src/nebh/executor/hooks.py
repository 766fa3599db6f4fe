"""Hooks: programs of the release's own image that a transaction runs to their end at named points."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.instances import build, exit_text, release_of
from nebh.executor.run import Run
from nebh.model.errors import Failed, NebhError
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.volume import Hook, HookPoint
from nebh.model.work import InstanceRow, Role, TransactionRow

POLL: Final = 0.05
LINES: Final = 20
"""Of what a hook printed, in its event."""
Rows = tuple[InstanceRow, ...]


def run_hooks(run: Run, row: TransactionRow, at: HookPoint, rows: Rows) -> bool:
    """Run the hooks of one point in their order; tell whether there was one. Raises Failed at the first that fails.

    prepare and migrate run in the place of an instance that is not there yet, which has to be built afterwards; the
    others inside the new instances.
    """
    release = run.context.accepted.release(row.service, row.epoch, row.to_counter)
    found = [one for one in (release.hooks if release is not None else ()) if one.at is at]
    for hook in found:
        for one in rows:
            if at in (HookPoint.PREPARE, HookPoint.MIGRATE):
                run_apart(run, row, one, hook)
            else:
                _run_inside(run.context, row, one, hook)
    return bool(found)


def run_apart(run: Run, row: TransactionRow, one: InstanceRow, hook: Hook) -> None:
    """In a container of its own. Before the old instances have ended it gets no volume."""
    context = run.context
    release = release_of(context, one)
    release = replace(
        release,
        argv=hook.argv,
        env={**release.env, **(hook.env or {})},
        volumes=release.volumes if hook.at is HookPoint.MIGRATE else (),
    )
    containers = context.drivers.containers
    build(context, one, prefix="hook", release=release)
    start = context.drivers.containers.tail_cursor(one.id, 0)
    try:
        with effect(context, row.id, "hook.run"):
            containers.start(one.id)
            problem = _wait(run, one, hook)
    finally:
        with contextlib.suppress(NebhError), effect(context, row.id, "hook.stop"):
            containers.signal(one.id, "KILL")
    _tell(context, row, one, hook, problem=problem, said=_last_lines(context, one.id, start))


def _wait(run: Run, one: InstanceRow, hook: Hook) -> str:
    """Return what went wrong, "" = it ended with exit code 0."""
    context = run.context
    end = context.clock.monotonic() + hook.timeout / 1000
    while True:
        observed = context.drivers.containers.observe(one.id)
        told = observed.exit_code is not None or not observed.conmon_alive  # its code comes a moment after its end
        if observed.status is Status.ABSENT or (observed.status is Status.STOPPED and told):
            return "" if observed.exit_code == 0 else exit_text(observed)
        if run.cancelled():
            return run.cancelled()
        if context.stopping.is_set():
            return "the executor is stopping"
        if context.clock.monotonic() > end:
            return f"it took longer than {hook.timeout / 1000:g} s"
        context.clock.sleep(POLL)


def _run_inside(context: Context, row: TransactionRow, one: InstanceRow, hook: Hook) -> None:
    with effect(context, row.id, "hook.run"):
        result = context.drivers.containers.check(one.id, hook.argv, hook.timeout)
    _tell(context, row, one, hook, problem="" if result.ok else result.detail, said="")


def _last_lines(context: Context, instance: str, cursor: str) -> str:
    with contextlib.suppress(NebhError, OSError):
        page = context.drivers.containers.read_logs(instance, cursor, 10_000)
        return "\n".join(line.text for line in page.lines[-LINES:])
    return ""


def _tell(context: Context, row: TransactionRow, one: InstanceRow, hook: Hook, *, problem: str, said: str) -> None:
    """Record how it ended, then raise Failed where it did not end well."""
    rehearsed = one.role is Role.REHEARSAL  # of that as a whole it is said how it ended, and its output is gone
    hint = f"`nebh logs {row.service}` shows all that it said" if problem and not rehearsed else ""
    what = f"{row.service}: {'in a rehearsal, ' if rehearsed else ''}hook {hook.name} of release {row.to_counter} ({hook.at.value}, {one.id})"
    context.event(
        "hook.failed" if problem else "hook.ended",
        f"{what} failed: {problem}" if problem else f"{what} is done",
        severity=Severity.WARNING if problem and not rehearsed else Severity.INFO,
        service=row.service,
        hint=hint,
        facts={"transaction": str(row.id), "hook": hook.name, "instance": one.id, "output": said},
    )
    if problem:
        last = said.rpartition("\n")[2]
        raise Failed(
            f"hook {hook.name} failed: {problem}" + (f"; it said last: {last[:300]}" if last else ""),
            hint=hint,
        )
