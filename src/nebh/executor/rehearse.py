"""One rehearsal: a copy of the data, a release started on it apart from everything, its checks, and all of it gone again.

What runs here stands in no list of instances: no name, no route, no endpoint leads to it, and its own link lets nothing
out but answers to the probes of this host. It is journalled before anything of it exists and forgotten once nothing is
left, so the next executor takes away what a crash left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nebh.executor.context import Context
from nebh.executor.data import Owned, owned
from nebh.executor.dataplane import Dataplane
from nebh.executor.effects import effect
from nebh.executor.health import look, wait_for
from nebh.executor.hooks import run_apart
from nebh.executor.instances import build, cloned_volume, exit_text, readiness, release_of
from nebh.executor.prepare import fetch_config, fetch_image
from nebh.executor.rest import at_rest
from nebh.executor.run import Run
from nebh.executor.secrets import fetch_secrets
from nebh.host.memory import total_memory
from nebh.model.errors import Failed, NebhError
from nebh.model.instance import Status
from nebh.model.network import link_plan
from nebh.model.policy import Policy
from nebh.model.quantities import render_size
from nebh.model.rehearsal import RehearsalRow
from nebh.model.release import Release
from nebh.model.service import Check
from nebh.model.stored import Ability, VolumePlan
from nebh.model.transaction import State
from nebh.model.volume import HookPoint
from nebh.model.work import InstanceRow, Role, TransactionRow
from nebh.planning import rehearse as planning
from nebh.planning.data import unknown_volumes

LINES = 20
"""Of what the instance printed, in the event of a rehearsal that failed."""
TRANSACTION = 0
"""Effects of a rehearsal are no transaction's."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that was tried. took: ms."""

    name: str
    ok: bool
    took: int
    detail: str = ""


@dataclass(kw_only=True)
class Report:
    """What came of it. problem: why it failed, "" = it passed; said: the last lines of its output; start: the data it
    had, for people."""

    steps: list[Step] = field(default_factory=list)
    problem: str = ""
    hint: str = ""
    said: str = ""
    start: str = ""


@contextlib.contextmanager
def _step(context: Context, report: Report, name: str) -> Iterator[None]:
    begun = context.clock.monotonic()

    def took() -> int:
        return round((context.clock.monotonic() - begun) * 1000)

    try:
        yield
    except (NebhError, OSError) as error:
        report.steps.append(Step(name=name, ok=False, took=took(), detail=str(error)))
        raise
    report.steps.append(Step(name=name, ok=True, took=took()))


def as_transaction(row: RehearsalRow) -> TransactionRow:
    """Return what an update to this release would be: what judges and prepares releases takes it."""
    return TransactionRow(
        id=TRANSACTION,
        service=row.service,
        kind="rehearse",
        state=State.PREPARING,
        epoch=row.epoch,
        from_counter=0,
        to_counter=row.counter,
        replicas=1,
        nonce="",
        phase="run",
        cutover=False,
        attempt=1,
        created_at=row.began_at,
        changed_at=row.began_at,
    )


def as_instance(row: RehearsalRow) -> InstanceRow:
    """Return its instance."""
    return InstanceRow(
        id=row.id,
        service=row.service,
        epoch=row.epoch,
        counter=row.counter,
        replica=row.replica,
        attempt=row.attempt,
        address=row.address,
        slot=0,
        role=Role.REHEARSAL,
        txn=TRANSACTION,
        created_at=row.began_at,
    )


def rehearse(run: Run, row: RehearsalRow, report: Report) -> None:
    """Try it; `report` tells how far it came. Raises what went wrong. `remove` comes after it, always."""
    context, one = run.context, as_instance(row)
    with _step(context, report, "prepare"):
        run.trust.accept(as_transaction(row))
        release = release_of(context, one)
        fetch_image(run, TRANSACTION, release)
        fetch_config(run, TRANSACTION, release)
        fetch_secrets(context, release)
        policy = context.policy(row.service)
        _admit(context, release, policy)
    found = owned(context, policy, release, replicas=row.replica + 1)
    volumes = tuple(part for part in found if part.replica == row.replica)
    start = _choose(context, release, volumes)
    report.start = start.said if volumes else "no data"
    with _step(context, report, "copy"):
        _copy(context, row, release, volumes, start)
    with effect(context, TRANSACTION, "rehearse.rules"):
        run.dataplane.apply_network()
    _migrate(run, row, release, volumes, start, report)
    with _step(context, report, "start"):
        build(context, one, prefix="rehearse", release=release)
        with effect(context, TRANSACTION, "rehearse.start"):
            context.drivers.containers.start(one.id)
    _look(run, one, release, report)


def _admit(context: Context, release: Release, policy: Policy) -> None:
    """Refuse what would take memory that others were promised. Raises Failed."""
    running = (context.policy_of(one).limits.memory for one in context.work.instances())
    memory = planning.Memory(total=total_memory(), promised=sum(running), percent=context.config.overlap_memory)
    verdict = planning.admit_memory(memory, needed=policy.limits.memory)
    if not verdict.ok:
        raise Failed(f"there is no room to rehearse {release.service}: {verdict.reason}", hint=verdict.hint)
    strange = unknown_volumes(policy, release)
    if strange:
        raise Failed(f"the policy of {release.service} knows no volume {', '.join(strange)}")


# the data


def _choose(context: Context, release: Release, volumes: tuple[Owned, ...]) -> planning.Start:
    """Say what it starts from. Raises Failed when the release could not run here at all."""
    kept = [one for one in volumes if one.row is not None and one.part.snapshotted]
    start = planning.choose_start(
        release,
        versions=[one.row.version for one in kept if one.row is not None],
        staying=[one.row.version for one in kept if one.row is not None and one.part.stays],
        snapshots=[one for one in context.volumes.snapshots(release.service) if one.whole],
    )
    if start.problem:
        raise Failed(start.problem, hint=start.hint)
    return start


def _copy(
    context: Context, row: RehearsalRow, release: Release, volumes: tuple[Owned, ...], start: planning.Start
) -> None:
    """Give it volumes of its own. Whoever writes rests meanwhile, unless all is copied from a snapshot. Raises Failed."""
    if not volumes:
        return
    context.storage()
    driver = context.drivers.volumes
    newest = _newest(context, row.service)
    copied = [one for one in volumes if one.row is not None and planning.is_copied(one.part)]
    if copied and Ability.CLONE not in driver.abilities:
        raise Failed(
            "the storage of volumes on this node cannot copy one: nothing can be rehearsed on it",
            hint="declare the command `clone`: docs/data-lvm.md",
        )
    _admit_copies(context, copied)
    needed = any(not _named(one, start) for one in copied)
    with at_rest(context, row.service, (row.replica,), prefix="rehearse") if needed else contextlib.nullcontext():
        for one in volumes:
            wish = VolumePlan(
                name=cloned_volume(row.address, row.attempt, one.part.bound.name),
                quota=one.part.bound.size,
                uid=one.part.mount.user or release.user,
                gid=one.part.mount.user or release.user,
            )
            with effect(context, TRANSACTION, "rehearse.clone"):
                if one in copied:
                    driver.clone(one.stored, snapshot=_named(one, start), to=wish)
                else:
                    driver.make(wish)
    if _newest(context, row.service) != newest or not is_quiet(context, row.service):
        raise Failed(f"an update of {row.service} began meanwhile", hint="rehearse again once it has ended")


def is_quiet(context: Context, service: str) -> bool:
    """Tell whether no update of a service is under way; one that is prepared and waits has changed nothing yet."""
    current = context.work.open_transaction(service)
    return current is None or (current.state is State.PREPARED and current.phase == "prepare")


def _named(one: Owned, start: planning.Start) -> str:
    """Return the snapshot that a volume comes from, "" = as it is now: shared state stays on a rollback."""
    return start.snapshot if one.part.snapshotted and not one.part.stays else ""


def _newest(context: Context, service: str) -> int:
    return max((row.id for row in context.work.history(service, limit=1)), default=0)


def _admit_copies(context: Context, copied: list[Owned]) -> None:
    """Where a copy takes bytes, there must be room for it beside what is kept free. Raises Failed."""
    driver = context.drivers.volumes
    if Ability.LIVE in driver.abilities:
        return  # a snapshot takes none
    seen = [driver.usage(one.stored) for one in copied]
    free, needed = min((one.free for one in seen), default=-1), sum(max(one.used, 0) for one in seen)
    if 0 <= free < needed + context.config.reserve:
        raise Failed(
            f"there is no room for a copy of the data: {render_size(needed)}, and {render_size(free)} are free",
            hint="free some disk; on btrfs, or in a pool, a copy takes no room",
        )


def _migrate(
    run: Run,
    row: RehearsalRow,
    release: Release,
    volumes: tuple[Owned, ...],
    start: planning.Start,
    report: Report,
) -> None:
    """Run the migrations that an update would: of a release that is new here, or where the data is older than what it
    writes."""
    exclusive = any(one.part.exclusive for one in volumes)
    known = run.context.accepted.release_row(row.service, row.epoch, row.counter)
    fresh = known is None or not known.committed_at
    older = any(one.row is not None and one.part.snapshotted for one in volumes) and start.version < release.data.writes
    if not exclusive or not (fresh or older):
        return
    for hook in release.hooks:
        if hook.at is HookPoint.MIGRATE:
            with _step(run.context, report, f"hook {hook.name}"):
                run_apart(run, as_transaction(row), as_instance(row), hook)


# the checks


def _look(run: Run, one: InstanceRow, release: Release, report: Report) -> None:
    """Have every check pass that an update would have to: startup, readiness, update.checks. Raises Failed."""
    context = run.context
    end = context.clock.monotonic() + release.health.startup_timeout / 1000
    for kind, check in (("startup", release.health.startup), ("readiness", readiness(release))):
        if check is not None:
            with _step(context, report, f"{kind} {check.name}" if check.name != kind else kind):
                result = wait_for(context, one, check, end=end, cancelled=run.cancelled, proven=False)
                if not result.ok:
                    raise Failed(result.detail)
    for check in release.update.checks:
        with _step(context, report, f"check {check.name}"):
            _pass(run, one, check)
    with _step(context, report, "up"):
        observed = context.drivers.containers.observe(one.id)
        if observed.status is not Status.RUNNING:
            raise Failed(f"it did not stay up: {exit_text(observed)}")


def _pass(run: Run, one: InstanceRow, check: Check) -> None:
    """Make one of the checks that would watch an update, as often as it may fail there. Raises Failed."""
    detail = ""
    for number in range(check.failures):
        if number:
            run.pause(check.interval / 1000)
        if run.cancelled():
            raise Failed(run.cancelled())
        result = look(run.context, one, check)
        if result.ok and result.made:
            return
        detail = result.detail
    raise Failed(f"check {check.name} failed {check.failures} times: {detail}")


# afterwards


def last_lines(context: Context, row: RehearsalRow) -> str:
    """Return what its instance printed last."""
    with contextlib.suppress(NebhError, OSError):
        cursor = context.drivers.containers.tail_cursor(row.id, LINES)
        page = context.drivers.containers.read_logs(row.id, cursor, LINES)
        return "\n".join(line.text[:500] for line in page.lines)
    return ""


def remove(context: Context, plane: Dataplane, row: RehearsalRow, *, also: Callable[[], None]) -> None:
    """Take away everything of a rehearsal, then journal `also` with its end. May be repeated; raises what cannot be done
    now."""
    with effect(context, TRANSACTION, "rehearse.delete"):
        context.drivers.containers.delete(row.id)
        context.drivers.containers.delete_logs(row.id)
    _drop_copies(context, row)
    with effect(context, TRANSACTION, "rehearse.detach"):
        context.drivers.networks.detach(link_plan(context.subnets(), row.address).name)
    with context.database.atomically():
        context.accepted.secrets.note_given(row.id, "")
        context.rehearsals.forget(row)
        also()
    plane.apply_network()


def _drop_copies(context: Context, row: RehearsalRow) -> None:
    """By what is there, not by what should be: the policy may have changed since."""
    release = context.accepted.release(row.service, row.epoch, row.counter)
    if release is None or not release.volumes:
        return
    context.storage()
    mark = f"{row.address}-{row.attempt}"
    for one in context.drivers.volumes.list():
        if one.name.startswith((f"rehearse.{mark}.", f"temp.{mark}.")):
            with effect(context, TRANSACTION, "rehearse.drop"):
                context.drivers.volumes.remove(one.name)
