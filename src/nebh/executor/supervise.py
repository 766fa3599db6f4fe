"""Keeping instances running: one thread waits on every conmon, restarts happen with backoff, probes at their pace."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from nebh.executor.context import Context
from nebh.executor.data import stands_alone, yields
from nebh.executor.dataplane import Dataplane
from nebh.executor.effects import effect
from nebh.executor.floods import LogKeeper
from nebh.executor.health import look, wait_ready
from nebh.executor.instances import build, exit_text, readiness, release_of
from nebh.executor.usage import UsageKeeper
from nebh.executor.watch_storage import StorageWatch
from nebh.host.waiting import Waiter
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.instance import CheckResult, Observed, Status
from nebh.model.network import link_plan
from nebh.model.transaction import State
from nebh.model.work import InstanceRow, Role
from nebh.planning.health import Backoff, Probe, Step, count_failures, judge_probe, next_restart

STEADY = 5.0
INGRESS = "the proxy"
BEFORE_START = frozenset({State.ASSIGNED, State.PREPARING, State.PREPARED})
YIELDING = frozenset(State) - BEFORE_START


class Supervisor:
    """Watches every instance that should run. Nothing depends on it for running: it may die and come back."""

    def __init__(self, context: Context, plane: Dataplane) -> None:
        self._context = context
        self._plane = plane
        self._waiter = Waiter()
        self._logs = LogKeeper(context)
        self._storage = StorageWatch(context)
        self._lock = threading.Lock()
        self._watched: set[str] = set()
        self._reviving: set[str] = set()
        self._backoff: dict[str, Backoff] = {}
        self._ended_for: dict[str, str] = {}
        self._threads = [
            threading.Thread(target=self._watch_exits, name="exits", daemon=True),
            threading.Thread(target=self._probe, name="probes", daemon=True),
            threading.Thread(target=self._logs.run, name="logs", daemon=True),
            threading.Thread(target=UsageKeeper(context).run, name="usage", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            if thread.ident is None:  # a start that failed half-way is tried again
                thread.start()

    def stop(self) -> None:
        """End the threads; instances run on."""
        self._waiter.close()

    # exits

    def watch(self, name: str) -> None:
        """Notice when this instance ends."""
        with self._lock:
            if name in self._watched:
                return
            self._watched.add(name)
        descriptor = self._context.drivers.containers.watch(name)
        if descriptor >= 0:
            self._waiter.add(descriptor, name)
        else:
            self._waiter.say(name)

    def _watch_exits(self) -> None:
        for name in self._waiter.names():
            with self._lock:
                self._watched.discard(name)
            try:
                if name == INGRESS:
                    self._ingress_ended()
                else:
                    self._ended(name)
            except (NebhError, OSError) as error:
                self._say_trouble(name, error)

    def _say_trouble(self, name: str, error: Exception) -> None:
        if not self._context.stopping.is_set():
            self._context.tell("supervisor.trouble", f"cannot look after {name}: {error}", severity=Severity.ALARM)

    def watch_ingress(self) -> None:
        """Notice when the proxy ends; start it when it has."""
        with self._lock:
            if INGRESS in self._watched:
                return
            self._watched.add(INGRESS)
        descriptor = self._context.drivers.ingress.watch()
        if descriptor >= 0:
            self._waiter.add(descriptor, INGRESS)
        else:
            self._waiter.say(INGRESS)

    def _ingress_ended(self) -> None:
        if self._context.stopping.is_set():
            return
        self._context.event(
            "ingress.ended",
            "the proxy ended and is started again",
            severity=Severity.ALARM,
            hint="its own log tells more: `journalctl`, or ingress/haproxy.log in the state folder",
        )
        self._plane.ensure_ingress()  # when it cannot be started, the steady look tries again
        self.watch_ingress()

    def _ended(self, name: str) -> None:
        row = self._context.work.instance(name)
        if row is None or row.role is Role.LEAVING or self._context.stopping.is_set():
            return
        observed = self._context.drivers.containers.observe(name)
        if observed.status is Status.RUNNING and observed.conmon_alive:
            self.watch(name)
            return
        if self._yielded(row):
            return
        self._say_ended(row, observed)
        self._context.work.note_exit(name, self._ended_for.pop(name, "") or exit_text(observed))
        if row.role in (Role.SERVING, Role.OLD):
            self._revive_later(row, self._delay(name))

    def _yielded(self, row: InstanceRow) -> bool:
        """Tell whether an open transaction without overlap has stopped this instance on purpose."""
        current = self._context.work.open_transaction(row.service)
        if current is None or current.id == row.txn or current.state not in YIELDING:
            return False
        return yields(self._context, current)

    def _must_wait(self, row: InstanceRow) -> bool:
        if self._storage.is_gone and self._context.volumes.volumes(row.service):
            return True
        current = self._context.work.open_transaction(row.service)
        if current is None or not stands_alone(self._context, current) or current.state in BEFORE_START:
            return False
        return current.id != row.txn or current.state is State.ROLLING_BACK

    def _say_ended(self, row: InstanceRow, observed: Observed) -> None:
        hint = f"`nebh logs {row.service}` shows what it said last"
        if observed.oom:
            hint = f"raise limits.memory in the spec of {row.service}; {hint}"
        self._context.event(
            "instance.oom" if observed.oom else "instance.exited",
            f"{row.id}: {exit_text(observed)}",
            severity=Severity.WARNING,
            service=row.service,
            hint=hint,
            facts={"instance": row.id, "exit_code": str(observed.exit_code), "restarts": str(row.restarts)},
        )

    # restarts

    def _delay(self, name: str) -> float:
        """Return the seconds to wait before the next restart."""
        now = round(self._context.clock.monotonic() * 1000)
        self._backoff[name], delay = next_restart(self._backoff.get(name, Backoff(ended=now)), now=now)
        return delay / 1000

    def _revive_later(self, row: InstanceRow, delay: float) -> None:
        with self._lock:
            if row.id in self._reviving:
                return
            self._reviving.add(row.id)
        threading.Thread(target=self._revive, args=(row, delay), name=f"revive {row.id}", daemon=True).start()

    def _revive(self, row: InstanceRow, delay: float) -> None:
        """Until it is made, or leaves, or the executor stops."""
        try:
            self._try(row, lambda: self._plane.rest(row, resting=True))
            while not self._context.stopping.wait(delay):
                now = self._context.work.instance(row.id)
                if now is None or now.role is Role.LEAVING or self._try(now, lambda: self.revive(row)):
                    return
                delay = max(1.0, self._delay(row.id))
        finally:
            with self._lock:
                self._reviving.discard(row.id)

    def _try(self, row: InstanceRow, act: Callable[[], None]) -> bool:
        try:
            act()
        except (NebhError, OSError) as error:
            if not self._context.stopping.is_set():
                self._context.tell(
                    "instance.restart-failed",
                    f"cannot restart {row.id}: {error}",
                    severity=Severity.ALARM,
                    service=row.service,
                    hint=f"`nebh why {row.service}` shows what happened before",
                )
            return False
        return True

    def revive(self, row: InstanceRow, *, back: bool = False) -> None:
        """Make and start an instance anew in its old place, wait until it is ready, give it its traffic back. One that
        runs already is left alone: two may have had the same thought. Nor is one started whose data another may be
        writing: only the transaction itself does that, on its way back."""
        with self._context.place(row.id):
            now = self._context.work.instance(row.id)
            if now is None or now.role is Role.LEAVING or (not back and self._must_wait(now)):
                return
            observed = self._context.drivers.containers.observe(row.id)
            if observed.status is not Status.RUNNING or not observed.conmon_alive:
                self._make_anew(now)
            elif row.id in self._plane.resting:
                self._give_traffic(now)

    def revive_later(self, row: InstanceRow) -> None:
        """Try again with backoff."""
        self._revive_later(row, self._delay(row.id))

    def _make_anew(self, row: InstanceRow) -> None:
        context = self._context
        with effect(context, row.txn, "revive.delete"):
            context.drivers.containers.delete(row.id)
            context.drivers.networks.detach(link_plan(context.subnets(), row.address).name)
        build(context, row, prefix="revive")
        self._plane.apply_network()
        with effect(context, row.txn, "revive.start"):
            context.drivers.containers.start(row.id)
        self._give_traffic(row)

    def _give_traffic(self, row: InstanceRow) -> None:
        """Once it is ready."""
        result = wait_ready(self._context, row, cancelled=lambda: self._gone(row.id))
        self.watch(row.id)
        if not self._gone(row.id):
            self._plane.rest(row, resting=not result.ok)
            if result.ok:
                self._context.event("instance.ready", f"{row.id} is ready", service=row.service)

    def _gone(self, name: str) -> str:
        row = self._context.work.instance(name)
        if row is None or row.role is Role.LEAVING:
            return "it is leaving"
        return "the executor is stopping" if self._context.stopping.is_set() else ""

    # probes of what is committed

    def _probe(self) -> None:
        failures: dict[tuple[str, Probe], int] = {}
        due: dict[tuple[str, Probe], float] = {}
        while not self._context.stopping.wait(STEADY):
            rows = [one for one in self._context.work.instances() if one.role is Role.SERVING]
            for row in rows:
                with contextlib.suppress(NebhError):
                    self._probe_one(row, failures, due)
            self._keep_shared()
            self._keep_storage()

    def _keep_storage(self) -> None:
        """Services whose storage is gone wait for it; when it is back they are started."""
        try:
            for row in self._storage.look():
                self.revive_later(row)
        except (NebhError, OSError) as error:
            self._say_trouble("the storage of volumes", error)

    def _keep_shared(self) -> None:
        """Bring back what somebody else took away: our table after `nft flush ruleset`, a resolver or proxy killed."""
        try:
            if self._context.drivers.networks.repair():
                self._context.event(
                    "network.repaired",
                    "the nftables table of Nebh was gone and is back",
                    severity=Severity.ALARM,
                    hint="something on this node flushes all tables: give it a table of its own",
                )
            self._context.drivers.dns.ensure(self._context.subnets())
            self.watch_ingress()
        except (NebhError, OSError) as error:
            self._context.tell("network.broken", f"cannot repair the network: {error}", severity=Severity.ALARM)

    def _probe_one(
        self, row: InstanceRow, failures: dict[tuple[str, Probe], int], due: dict[tuple[str, Probe], float]
    ) -> None:
        if row.id in self._reviving or row.id in self._context.at_rest:
            return  # it is on its way, or stands still on purpose and goes on in a moment
        if self._context.work.open_transaction(row.service) is not None:
            return
        health = release_of(self._context, row).health
        for probe, check in ((Probe.LIVENESS, health.liveness), (Probe.READINESS, health.readiness)):
            key, now = (row.id, probe), self._context.clock.monotonic()
            if check is None or due.get(key, 0.0) > now:
                continue
            due[key] = now + max(STEADY, check.interval / 1000)
            result = look(self._context, row, check)
            if row.id in self._context.at_rest:
                return
            failures[key] = count_failures(failures.get(key, 0), result)
            step = judge_probe(probe, check, failures=failures[key], resting=row.id in self._plane.resting)
            if step is Step.END:
                failures[key] = 0  # of the one that takes its place nothing is known
            self._take(row, probe, step, result)
        if health.readiness is None and row.id in self._plane.resting:
            self._try_again(row)

    def _take(self, row: InstanceRow, probe: Probe, step: Step, result: CheckResult) -> None:
        if step in (Step.REST, Step.END):
            self._context.event(
                f"instance.{probe.value}-failed",
                f"{row.id}: {probe.value} failed: {result.detail}",
                severity=Severity.WARNING,
                service=row.service,
                facts={"instance": row.id},
            )
        if step is Step.END:
            self._ended_for[row.id] = f"liveness failed: {result.detail}"
            self._context.drivers.containers.signal(row.id, "KILL")  # its end is noticed like any other
        elif step in (Step.REST, Step.WAKE):
            self._plane.rest(row, resting=step is Step.REST)

    def _try_again(self, row: InstanceRow) -> None:
        check = readiness(release_of(self._context, row))
        if check is None or look(self._context, row, check).ok:
            self._plane.rest(row, resting=False)
