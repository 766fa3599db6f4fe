"""PREPARING: everything slow, nothing visible. May be repeated from the start at any time."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from nebh.executor.backup_restore import fetch_backups
from nebh.executor.context import Context
from nebh.executor.data import make_volumes
from nebh.executor.effects import effect
from nebh.executor.hooks import run_hooks
from nebh.executor.instances import build
from nebh.executor.live import goes_live
from nebh.executor.run import Run
from nebh.executor.secrets import fetch_secrets
from nebh.executor.tls_keys import check_secrets
from nebh.host import marks
from nebh.images.manifest import MAX_MANIFEST, accept_manifest
from nebh.model.errors import BadInput, Failed, NebhError, Refused, Unreachable
from nebh.model.image import ImageRef, TreeManifest
from nebh.model.names import instance_id
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.transaction import State
from nebh.model.volume import HookPoint
from nebh.model.work import InstanceRow, Role, TransactionRow
from nebh.planning import local
from nebh.planning.admission import Disk, admit
from nebh.planning.tls import tls_secrets

TRIES, TRY_AGAIN, MOST_WAIT = 8, 0.5, 16.0
"""How often, and after how many seconds at first and at most, a recovered transaction asks again: for a minute in all."""


def assigned(run: Run, row: TransactionRow) -> TransactionRow:
    """ASSIGNED: verify and decide; what is accepted goes on to PREPARING."""
    if row.kind in local.ENDING:
        return run.move(row, State.PREPARING)
    try:
        marks.mark("accept.begin")
        run.trust.accept(row)
        marks.mark("accept.done")
    except NebhError as error:
        return _give_up(run, row, error)
    return run.move(row, State.PREPARING)


def preparing(run: Run, row: TransactionRow) -> TransactionRow:
    """PREPARING: fetch, materialise, attach, create. A failure drops the transaction; what ran runs on."""
    discard(run, row)
    try:
        if row.kind not in local.ENDING:
            release = run.context.accepted.release(row.service, row.epoch, row.to_counter)
            if release is None:
                raise Failed(f"cannot find release {row.to_counter} of {row.service} among the accepted ones")
            fetch_image(run, row.id, release)
            fetch_config(run, row.id, release)
            policy = run.context.policy_for(row)
            fetch_secrets(run.context, release, more=tls_secrets(policy.net.routes))
            if _brings_routes(run, row, policy):
                check_secrets(run.context, policy)
            row = _decide_live(run.context, row, release)
            make_volumes(run.context, row, release)
            fetch_backups(run, row)
            if not row.live:
                _make_instances(run, row)
    except (NebhError, OSError) as error:
        discard(run, row)
        return _give_up(run, row, _said(row, error))
    if run.cancelled():
        discard(run, row)
        return run.move(row, State.DROPPED, reason=run.cancelled())
    return run.move(row, State.PREPARED)


def _give_up(run: Run, row: TransactionRow, error: NebhError) -> TransactionRow:
    """End what cannot be prepared; what ran runs on. After a boot the agent, and a controller on this machine, come up
    later than we do: what an earlier executor began waits for them."""
    away = isinstance(error, Unreachable) or isinstance(error.__cause__, Unreachable)
    if away and run.recovered and run.tries < TRIES and not run.cancelled():
        run.pause(min(TRY_AGAIN * 2**run.tries, MOST_WAIT))
        run.tries += 1
        return row
    if isinstance(error, Refused):
        return run.move(row, State.REFUSED, reason=_with_hint(error), rule=error.rule)
    return run.move(row, State.DROPPED, reason=_with_hint(error))


def _decide_live(context: Context, row: TransactionRow, release: Release) -> TransactionRow:
    """Journal whether this transaction only replaces files under the instances that run."""
    live = goes_live(context, row, release)
    return row if live is row.live else context.work.set_live(row.id, live=live)


def _brings_routes(run: Run, row: TransactionRow, policy: Policy) -> bool:
    """Whether a deploy comes with routes that are not in effect yet. Going back and starting again wait for no
    certificate, however old the one is that there is."""
    return row.kind == "deploy" and (row.from_counter == 0 or policy != run.context.effective(row.service))


def _with_hint(error: Exception) -> str:
    hint = error.hint if isinstance(error, NebhError) else ""
    return f"{error} ({hint})" if hint else str(error)


def _said(row: TransactionRow, error: NebhError | OSError) -> NebhError:
    """The kernel's word alone does not say what could not be done."""
    if isinstance(error, NebhError):
        return error
    hint = "free some disk, then deploy again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "is the disk broken?"
    return Failed(
        f"cannot prepare release {row.to_counter} of {row.service}: {error.strerror or error}"
        + (f": {error.filename}" if error.filename else ""),
        hint=hint,
    )


def discard(run: Run, row: TransactionRow) -> None:
    """Send away what an earlier try of this transaction made."""
    leaving = {one.id: Role.LEAVING for one in run.context.work.instances(row.service) if one.role is Role.NEW}
    if leaving:
        run.context.work.set_roles(leaving)
        run.sweeper.sweep_now(tuple(leaving))


def fetch_image(run: Run, transaction: int, release: Release) -> TreeManifest:
    """Have the release's image here, whole, checked, materialised and on the disk. Raises Refused N9 / N14, Failed,
    this also when the transaction is cancelled meanwhile."""
    context = run.context
    ref, store = release.images["main"], context.store
    with context.store_lock:
        with effect(context, transaction, "prepare.manifest"):
            marks.mark("manifest.begin")
            manifest = _manifest(context, ref)
            marks.mark("manifest.done")
        marks.mark("image.begin")
        run.trust.check_image(release, manifest)
        marks.mark("image.checked")
        if store.is_durable(ref.manifest):
            return manifest
        missing = store.missing(manifest)
        verdict = admit(Disk(free=store.free_bytes(), reserve=context.config.reserve), needed=missing.bytes)
        if not verdict.ok:
            what = f"release {release.counter} of {release.service}"
            raise Failed(f"cannot prepare {what}: {verdict.reason}", hint=verdict.hint)
        store.expect(ref.manifest)
        with effect(context, transaction, "prepare.objects"):
            _fetch(context, missing.items, lambda digest, size, chunks: store.put(digest, size, _until(run, chunks)))
        with effect(context, transaction, "prepare.materialise"):
            store.materialise(ref.manifest, manifest, durable=False)
        with effect(context, transaction, "prepare.sync"):
            store.sync()
        return manifest


def fetch_config(run: Run, transaction: int, release: Release) -> None:
    """Have the bundle of a release's files here, and what it renders to: what is wrong with it is said now."""
    with effect(run.context, transaction, "prepare.config"):
        run.context.configs.fetch(release)
    run.context.configs.files(release)


def _until(run: Run, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Hand chunks on until the transaction is cancelled: a slow source must not hold it."""
    for chunk in chunks:
        if run.cancelled():
            raise Failed(run.cancelled())
        yield chunk


def _manifest(context: Context, ref: ImageRef) -> TreeManifest:
    """Return the manifest that a release means, from our store or the agent."""
    held = context.store.read_manifest(ref.manifest)
    if held is not None:
        return accept_manifest(held, ref=ref)
    data = _fetch_manifest(context, ref)
    manifest = accept_manifest(data, ref=ref)
    context.store.keep_manifest(ref.manifest, data)
    return manifest


def _fetch_manifest(context: Context, ref: ImageRef) -> bytes:
    if not 0 < ref.manifest_bytes <= MAX_MANIFEST:
        raise Refused(f"the manifest of {ref.manifest_bytes} bytes is not between 1 and {MAX_MANIFEST}", rule="N9")
    found = bytearray()

    def take(_: str, size: int, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            found.extend(chunk)
            if len(found) > size:
                raise BadInput("cannot take a manifest from the agent: it is longer than signed")

    _fetch(context, ((ref.manifest, ref.manifest_bytes),), take)
    return bytes(found)


def _fetch(
    context: Context, items: tuple[tuple[str, int], ...], take: Callable[[str, int, Iterator[bytes]], None]
) -> None:
    """Fetch objects; other bytes than were signed are a refusal, whoever of agent and executor noticed them first."""
    try:
        context.agent.objects(items, take)
    except BadInput as error:
        raise Refused(
            f"cannot accept the image's bytes: {error.message}",
            rule="N9",
            hint="the controller holds other bytes than were signed: damaged or attacked; upload them again",
        ) from error


def _make_instances(run: Run, row: TransactionRow) -> None:
    context = run.context
    sides = local.plan_sides(
        kind=row.kind,
        epoch=row.epoch,
        to_counter=row.to_counter,
        replicas=row.replicas,
        instances=context.work.instances(row.service),
    )
    made = tuple(_journal_instance(context, row, replica=replica, slot=slot) for replica, slot in sides.new)
    for one in made:
        if run.cancelled():
            return
        build(context, one, prefix="prepare")
    if run_hooks(run, row, HookPoint.PREPARE, made):
        for one in made:
            build(context, one, prefix="prepare")
    with effect(context, row.id, "prepare.rules"):
        run.dataplane.apply_network()
    with effect(context, row.id, "prepare.slots"):
        run.dataplane.configure_ingress()


def _journal_instance(context: Context, row: TransactionRow, *, replica: int, slot: int) -> InstanceRow:
    with context.database.atomically():
        attempt = context.work.next_attempt(row.service)
        one = InstanceRow(
            id=instance_id(service=row.service, counter=row.to_counter, replica=replica, attempt=attempt),
            service=row.service,
            epoch=row.epoch,
            counter=row.to_counter,
            replica=replica,
            attempt=attempt,
            address=context.work.free_address(),
            slot=slot,
            role=Role.NEW,
            txn=row.id,
            created_at=context.clock.now_ms(),
        )
        context.work.endpoint(row.service, replica)
        context.work.add_instance(one)
    return one
