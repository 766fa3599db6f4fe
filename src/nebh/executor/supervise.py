"""Keeping instances running: one thread waits on every conmon, restarts happen with backoff, probes at their pace."""

from __future__ import annotations

import contextlib
import threading

from nebh.executor.context import Context
from nebh.executor.dataplane import Dataplane
from nebh.executor.effects import effect
from nebh.executor.floods import LogKeeper
from nebh.executor.health import look, wait_ready
from nebh.executor.instances import build, exit_text, readiness, release_of
from nebh.host.waiting import Waiter
from nebh.model.errors import NebhError
from nebh.model.event import Severity
from nebh.model.instance import Observed, Status
from nebh.model.network import link_plan
from nebh.model.service import Check
from nebh.model.work import InstanceRow, Role

STEADY = 5.0
BACKOFF_FIRST = 1.0
BACKOFF_MOST = 60.0
CALM = 600.0


class Supervisor:
    """Watches every instance that should run. Nothing depends on it for running: it may die and come back."""

    def __init__(self, context: Context, plane: Dataplane) -> None:
        self._context = context
        self._plane = plane
        self._waiter = Waiter()
        self._logs = LogKeeper(context)
        self._lock = threading.Lock()
        self._watched: set[str] = set()
        self._reviving: set[str] = set()
        self._places: dict[str, threading.Lock] = {}
        self._quick: dict[str, tuple[int, float]] = {}
        self._threads = [
            threading.Thread(target=self._watch_exits, name="exits", daemon=True),
            threading.Thread(target=self._probe, name="probes", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
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
            with contextlib.suppress(NebhError):
                self._ended(name)

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
        self._context.work.note_exit(name, exit_text(observed))
        if row.role in (Role.SERVING, Role.OLD):
            self._revive_later(row, self._delay(name))

    def _yielded(self, row: InstanceRow) -> bool:
        """Tell whether an open transaction without overlap has stopped this instance on purpose."""
        current = self._context.work.open_transaction(row.service)
        if current is None or current.id == row.txn:
            return False
        release = self._context.accepted.release(current.service, current.epoch, current.to_counter)
        return release is not None and not release.update.overlap

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
        """Return the seconds to wait before the next restart: 0 first, then doubling from 1 to 60 s."""
        now = self._context.clock.monotonic()
        count, last = self._quick.get(name, (0, 0.0))
        count = 0 if now - last > CALM else count
        self._quick[name] = (count + 1, now)
        return 0.0 if count == 0 else min(BACKOFF_FIRST * 2 ** (count - 1), BACKOFF_MOST)

    def _revive_later(self, row: InstanceRow, delay: float) -> None:
        with self._lock:
            if row.id in self._reviving:
                return
            self._reviving.add(row.id)
        threading.Thread(target=self._revive, args=(row, delay), name=f"revive {row.id}", daemon=True).start()

    def _revive(self, row: InstanceRow, delay: float) -> None:
        try:
            self._plane.rest(row, resting=True)
            if self._context.stopping.wait(delay):
                return
            now = self._context.work.instance(row.id)
            if now is not None and now.role is not Role.LEAVING:
                self.revive(now)
        except (NebhError, OSError) as error:
            self._context.event(
                "instance.restart-failed",
                f"cannot restart {row.id}: {error}",
                severity=Severity.ALARM,
                service=row.service,
                hint=f"`nebh why {row.service}` shows what happened before",
            )
            with self._lock:
                self._reviving.discard(row.id)
            now = self._context.work.instance(row.id)
            if now is not None and now.role is not Role.LEAVING:
                self._revive_later(now, max(1.0, self._delay(row.id)))
        finally:
            with self._lock:
                self._reviving.discard(row.id)

    def revive(self, row: InstanceRow) -> None:
        """Make and start an instance anew in its old place, wait until it is ready, give it its traffic back. One that
        runs already is left alone: two may have had the same thought."""
        with self._lock:
            place = self._places.setdefault(row.id, threading.Lock())
        with place:
            if self._context.drivers.containers.observe(row.id).status is not Status.RUNNING:
                self._make_anew(row)

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
        result = wait_ready(context, row, cancelled=lambda: self._gone(row.id))
        now = context.work.instance(row.id)
        self.watch(row.id)
        if now is not None and now.role is not Role.LEAVING:
            self._plane.rest(now, resting=not result.ok)
            if result.ok:
                context.event("instance.ready", f"{row.id} is ready", service=row.service)

    def _gone(self, name: str) -> str:
        row = self._context.work.instance(name)
        if row is None or row.role is Role.LEAVING:
            return "it is leaving"
        return "the executor is stopping" if self._context.stopping.is_set() else ""

    # probes of what is committed

    def _probe(self) -> None:
        failures: dict[tuple[str, str], int] = {}
        due: dict[tuple[str, str], float] = {}
        while not self._context.stopping.wait(STEADY):
            rows = [one for one in self._context.work.instances() if one.role is Role.SERVING]
            for row in rows:
                with contextlib.suppress(NebhError):
                    self._probe_one(row, failures, due)
            self._logs.look()
            self._keep_shared()

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
        except (NebhError, OSError) as error:
            self._context.event("network.broken", f"cannot repair the network: {error}", severity=Severity.ALARM)

    def _probe_one(
        self, row: InstanceRow, failures: dict[tuple[str, str], int], due: dict[tuple[str, str], float]
    ) -> None:
        if row.id in self._reviving or self._context.work.open_transaction(row.service) is not None:
            return
        health = release_of(self._context, row).health
        for name, check in (("liveness", health.liveness), ("readiness", health.readiness)):
            now = self._context.clock.monotonic()
            if check is None or due.get((row.id, name), 0.0) > now:
                continue
            due[row.id, name] = now + max(STEADY, check.interval / 1000)
            result = look(self._context, row, check)
            key = (row.id, name)
            failures[key] = 0 if result.ok else failures.get(key, 0) + 1
            self._judge(row, name, check, failures[key], result.detail)
        if health.readiness is None and row.id in self._plane.resting:
            self._try_again(row)

    def _judge(self, row: InstanceRow, name: str, check: Check, failed: int, detail: str) -> None:
        resting = row.id in self._plane.resting
        if name == "readiness" and failed == 0 and resting:
            self._plane.rest(row, resting=False)
        if failed != check.failures:
            return
        self._context.event(
            f"instance.{name}-failed",
            f"{row.id}: {name} failed {failed} times: {detail}",
            severity=Severity.WARNING,
            service=row.service,
            facts={"instance": row.id},
        )
        if name == "liveness":
            self._context.work.note_exit(row.id, f"liveness failed: {detail}")
            self._context.drivers.containers.signal(row.id, "KILL")
            self._revive_later(row, self._delay(row.id))
        elif not resting:
            self._plane.rest(row, resting=True)

    def _try_again(self, row: InstanceRow) -> None:
        check = readiness(release_of(self._context, row))
        if check is None or look(self._context, row, check).ok:
            self._plane.rest(row, resting=False)
