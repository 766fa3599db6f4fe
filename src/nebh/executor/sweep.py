"""Taking leaving instances away: drain, stop, delete, detach. Each in a thread of its own, since a drain may be long."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from nebh.executor.context import Context
from nebh.executor.dataplane import Dataplane
from nebh.executor.effects import effect, hot_effect
from nebh.executor.instances import release_of, temporary_volume
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.network import SlotState, link_plan
from nebh.model.release import Release
from nebh.model.service import Stop
from nebh.model.volume import VolumeClass
from nebh.model.work import InstanceRow, Role
from nebh.planning import data, dataplane
from nebh.planning.retention import ReleaseFacts, keep_releases

POLL = 0.1
KEPT_LOGS = 6
FIRST_DELAY = 1.0
MOST_DELAY = 60.0


class Sweeper:
    """Ends instances. Repeatable: a sweep cut short is begun again by the next executor."""

    def __init__(self, context: Context, plane: Dataplane) -> None:
        self._context = context
        self._plane = plane
        self._lock = threading.Lock()
        self._sweeping: dict[str, threading.Thread] = {}

    def sweep(self, names: tuple[str, ...]) -> None:
        """Begin to take away leaving instances, in the background."""
        for name in names:
            with self._lock:
                if name in self._sweeping:
                    continue
                thread = threading.Thread(target=self._sweep, args=(name,), name=f"sweep {name}", daemon=True)
                self._sweeping[name] = thread
            thread.start()

    def sweep_now(self, names: tuple[str, ...]) -> None:
        """Take away instances that never served, and wait for it."""
        for name in names:
            row = self._context.work.instance(name)
            if row is not None:
                self._take_away(row, served=False)
        self.tidy()

    def wait(self, names: tuple[str, ...]) -> None:
        """Wait until these instances are gone."""
        for name in names:
            with self._lock:
                thread = self._sweeping.get(name)
            if thread is not None:
                thread.join()

    def forget(self, service: str) -> None:
        """Once the last instance of a removed service is gone: leave its release history (the floor, if it comes back)
        and nothing else. May be repeated."""
        context = self._context
        self.wait(tuple(one.id for one in context.work.instances(service)))
        for name in context.work.former(service):
            context.drivers.containers.delete_logs(name)
            context.work.forget_former(name)
        with context.database.atomically():
            context.work.forget_service(service)
            context.accepted.forget_policy(service)
        self.tidy()

    def forget_later(self, service: str) -> None:
        """Finish a removal that an earlier executor began."""
        threading.Thread(target=self._forget_later, args=(service,), name=f"forget {service}", daemon=True).start()

    def _forget_later(self, service: str) -> None:
        try:
            self.forget(service)
        except (NebhError, OSError) as error:
            self._context.tell(
                "sweep.failed", f"cannot finish removing {service}: {error}", severity=Severity.WARNING, service=service
            )

    def busy(self) -> tuple[str, ...]:
        """Return the instances being taken away."""
        with self._lock:
            return tuple(self._sweeping)

    def _sweep(self, name: str) -> None:
        delay = FIRST_DELAY
        try:
            while not self._try(name, again_in=delay):
                if self._context.stopping.wait(delay):
                    return
                delay = min(delay * 2, MOST_DELAY)
        finally:
            with self._lock:
                self._sweeping.pop(name, None)

    def _try(self, name: str, *, again_in: float) -> bool:
        row = None
        try:
            row = self._context.work.instance(name)
            if row is not None and row.role is Role.LEAVING:
                self._take_away(row, served=True)
                self.tidy()
        except (NebhError, OSError) as error:
            if self._context.stopping.is_set():
                return False
            self._context.tell(
                "sweep.failed",
                f"cannot take {name} away: {error}",
                severity=Severity.WARNING,
                service=row.service if row else "",
                hint=f"it gets no traffic; this is tried again in {again_in:g} s",
            )
            return False
        return True

    def _stop_of(self, row: InstanceRow) -> Stop:
        return release_of(self._context, row).stop

    def _take_away(self, row: InstanceRow, *, served: bool) -> None:
        """served: it may have requests, and its program may have something to finish."""
        context = self._context
        if served:
            self._drain((row,))
            with effect(context, row.txn, "sweep.retire"):
                self._retire(row)
        with context.place(row.id):  # a restart that has begun sees that it leaves, and ends first
            if context.drivers.containers.observe(row.id).status is Status.RUNNING and served:
                with effect(context, row.txn, "sweep.stop"):
                    self._ask_to_end(row, grace=self._stop_of(row).grace)
            with effect(context, row.txn, "sweep.delete"):
                context.drivers.containers.delete(row.id)
            self._drop_temporary(row)
            with effect(context, row.txn, "sweep.detach"):
                context.drivers.networks.detach(link_plan(context.subnets(), row.address).name)
            context.work.remove_instance(row.id, now=context.clock.now_ms())
        context.forget_place(row.id)
        self._drop_old_logs(row.service)

    def _drop_temporary(self, row: InstanceRow) -> None:
        """What only this instance had goes with it."""
        policy = self._context.accepted.policy(row.service)
        release = self._context.accepted.release(row.service, row.epoch, row.counter)
        if policy is None or release is None:
            return
        for part in data.mounted(policy, release):
            if part.bound.kind is VolumeClass.TEMP:
                self._context.drivers.volumes.remove(temporary_volume(row, part.bound.name))

    def _drop_old_logs(self, service: str) -> None:
        """Keep the logs of the newest former instances: they tell why something was rolled back."""
        for name in self._context.work.former(service)[KEPT_LOGS:]:
            self._context.drivers.containers.delete_logs(name)
            self._context.work.forget_former(name)

    def tidy(self) -> None:
        """After instances are gone: rules and slots without them, and what nobody keeps any more."""
        transaction = 0
        with effect(self._context, transaction, "sweep.rules"):
            self._plane.apply_network()
        with effect(self._context, transaction, "sweep.slots"):
            self._plane.configure_ingress()
        with effect(self._context, transaction, "sweep.prune"):
            self.prune()

    def prune_now(self) -> None:
        """After a transaction that ended before it had an instance: what it fetched goes. On a full disk above all, so
        nothing is journalled before."""
        try:
            with hot_effect("sweep.prune"):
                self.prune()
        except (NebhError, OSError) as error:
            self._say_unpruned(error)

    def prune_later(self) -> None:
        """After a start: the last transaction's end may have been cut short. Repeated at every start."""
        threading.Thread(target=self._prune_later, name="prune", daemon=True).start()

    def _prune_later(self) -> None:
        try:
            self.prune()
        except (NebhError, OSError) as error:
            self._say_unpruned(error)

    def _say_unpruned(self, error: Exception) -> None:
        if not self._context.stopping.is_set():
            self._context.tell(
                "sweep.failed",
                f"cannot remove files that nobody needs any more: {error}",
                hint="the next end of a transaction tries again",
            )

    def prune(self) -> None:
        """Remove trees and objects that no retained release needs."""
        with self._context.store_lock:
            store = self._context.store
            kept = retained_manifests(self._context)
            store.collect(name for name in kept if store.read_manifest(name) is not None)
            self._context.configs.prune(retained_bundles(self._context))

    def quiesce(self, rows: tuple[InstanceRow, ...]) -> None:
        """Drain and stop instances but keep their place: they may be revived."""
        self._drain(rows)
        for row in rows:
            self._ask_to_end(row, grace=self._stop_of(row).grace)

    def _retire(self, row: InstanceRow) -> None:
        policy = self._context.accepted.effective(row.service)
        if policy is not None:
            self._plane.switch(dataplane.slot_changes(policy=policy, ready=(), drain=(row,), then=SlotState.MAINT))

    def _drain(self, rows: tuple[InstanceRow, ...]) -> None:
        """Wait until the proxy has no request left on these slots, for the declared drain at most."""
        clock = self._context.clock
        for row in rows:
            policy = self._context.accepted.effective(row.service)
            if policy is None or not policy.net.routes:
                continue
            backends = [f"{row.service}:{port}" for port in dataplane.routed_ports(policy)]
            end = clock.monotonic() + release_of(self._context, row).update.drain / 1000
            while clock.monotonic() < end and not self._context.stopping.is_set():
                counters = [self._context.drivers.ingress.counters(key).get(row.slot) for key in backends]
                if not any(one is not None and (one.current or one.queued) for one in counters):
                    break
                clock.sleep(POLL)

    def _ask_to_end(self, row: InstanceRow, *, grace: int) -> None:
        containers, clock = self._context.drivers.containers, self._context.clock
        containers.signal(row.id, self._stop_of(row).signal)
        end = clock.monotonic() + grace / 1000
        while clock.monotonic() < end:
            if containers.observe(row.id).status is not Status.RUNNING:
                return
            clock.sleep(0.02)
        containers.signal(row.id, "KILL")


def retained_manifests(context: Context) -> frozenset[str]:
    """Return the manifest digests that must stay: running, retained, pinned and being prepared."""
    return frozenset(one.images["main"].manifest for one in retained_releases(context))


def retained_bundles(context: Context) -> frozenset[str]:
    """Return the digests of config bundles that must stay."""
    return frozenset(one.config.digest for one in retained_releases(context) if one.config is not None)


def retained_releases(context: Context) -> Iterator[Release]:
    """Yield the releases that must stay ready to start: running, retained, pinned and being prepared."""
    instances = context.work.instances()
    open_now = {(row.service, row.epoch, row.to_counter) for row in context.work.open_transactions()}
    open_now |= {(row.service, row.epoch, row.counter) for row in context.rehearsals.rows()}
    for service in context.work.services():
        policy = context.accepted.policy(service.service)
        rows = context.accepted.release_rows(service.service)
        running = {(one.epoch, one.counter) for one in instances if one.service == service.service}
        running |= {(epoch, counter) for name, epoch, counter in open_now if name == service.service}
        if service.wanted.value != "removed":
            running.add((service.epoch, service.counter))
        newest = context.accepted.release(service.service, service.epoch, service.counter)
        kept = keep_releases(
            tuple(ReleaseFacts(epoch=row.epoch, counter=row.counter, committed_at=row.committed_at) for row in rows)
            if service.wanted.value != "removed"
            else (),
            running=frozenset(running),
            pins=frozenset(policy.pins if policy else ()),
            retention=newest.retention if newest else 3,
        )
        for row in rows:
            if (row.epoch, row.counter) in kept or (row.epoch, row.counter) in running:
                release = context.accepted.release(row.service, row.epoch, row.counter)
                if release is not None:
                    yield release
