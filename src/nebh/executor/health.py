"""Looking at instances: one check, waiting until one is ready, and watching new ones while they bake."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from nebh.executor.context import Context
from nebh.executor.instances import exit_text, readiness, release_of
from nebh.model.instance import CheckResult, Status
from nebh.model.network import addresses
from nebh.model.release import Release
from nebh.model.service import Check, CheckKind
from nebh.model.work import InstanceRow, TransactionRow
from nebh.planning.health import count_failures, judge_answers, judge_check

FIRST_PAUSE = 0.02


def look(context: Context, row: InstanceRow, check: Check) -> CheckResult:
    """Make one check of one instance."""
    if check.kind is CheckKind.EXEC:
        return context.drivers.containers.check(row.id, check.argv, check.timeout)
    address = addresses(context.subnets(), row.address).v4
    ipaddress.ip_address(address)
    result = context.agent.probe(check, address)
    return result if result.made else _look_ourselves(context, check, address, result)


def _look_ourselves(context: Context, check: Check, address: str, missed: CheckResult) -> CheckResult:
    """Without an agent only this is asked: does the port accept connections? An agent that is restarted, or gone for
    good, must neither end healthy instances nor stand in the way of going back."""
    made = check.kind is CheckKind.TCP  # then that was the check
    seen = context.drivers.networks.reach(address, check.port)
    if seen == "ok":
        detail = (
            "it accepts connections" if made else f"it accepts connections, more could not be asked: {missed.detail}"
        )
        return CheckResult(ok=True, detail=detail, made=made)
    return CheckResult(ok=False, detail=f"port {check.port}: {seen}; {missed.detail}", made=made)


def is_proven(context: Context, row: TransactionRow) -> bool:
    """Tell whether the release has passed its checks here before: then a look without the agent is enough. A new one
    waits for an agent that is away, or whatever kills the agent would let a broken release in."""
    known = context.accepted.release_row(row.service, row.epoch, row.to_counter)
    return known is not None and known.committed_at > 0


def wait_ready(context: Context, row: InstanceRow, *, cancelled: Callable[[], str], proven: bool = True) -> CheckResult:
    """Wait until a started instance is ready. Not ok: it ended, or was not ready within `startup_timeout`, or
    `cancelled()` gave a reason. proven: see `is_proven`."""
    release = release_of(context, row)
    end = context.clock.monotonic() + release.health.startup_timeout / 1000
    for check in (release.health.startup, readiness(release)):
        if check is not None:
            result = wait_for(context, row, check, end=end, cancelled=cancelled, proven=proven)
            if not result.ok:
                return result
    return _alive(context, row)


def _alive(context: Context, row: InstanceRow) -> CheckResult:
    observed = context.drivers.containers.observe(row.id)
    if observed.status is Status.RUNNING:
        return CheckResult(ok=True, detail="")
    return CheckResult(ok=False, detail=f"{row.id} did not stay up: {exit_text(observed)}")


def wait_for(
    context: Context, row: InstanceRow, check: Check, *, end: float, cancelled: Callable[[], str], proven: bool
) -> CheckResult:
    """Make one check of a started instance until it passes. end: monotonic; the rest: see `wait_ready`."""
    pause = FIRST_PAUSE
    while True:
        reason = cancelled()
        if reason:
            return CheckResult(ok=False, detail=reason)
        alive = _alive(context, row)
        if not alive.ok:
            return alive
        result = look(context, row, check)
        if result.ok and (result.made or proven):
            return result
        if context.clock.monotonic() + pause > end:
            limit = release_of(context, row).health.startup_timeout / 1000
            return CheckResult(
                ok=False, detail=f"{row.id} was not ready within {limit:g} s: {check.name}: {result.detail}"
            )
        context.clock.sleep(pause)
        pause = min(pause * 1.5, max(check.interval / 1000, FIRST_PAUSE))


class Bake:
    """Watches the new side for the declared time. `step` returns why it failed, or ""."""

    def __init__(
        self, context: Context, release: Release, rows: tuple[InstanceRow, ...], *, live: bool = False
    ) -> None:
        """live: the instances are older than the release, whose files they were given."""
        self._context = context
        self._release = release
        self._rows = rows
        self._live = live
        self._restarts = {one.id: one.restarts for one in rows}
        ready = readiness(release)
        self._checks = release.update.checks or ((ready,) if ready is not None else ())
        self._due: dict[tuple[str, str], float] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._unmade: dict[tuple[str, str], str] = {}
        self._base: dict[str, tuple[int, int]] | None = None

    def step(self) -> str:
        """Make every check that is due; wait until the next is."""
        for row in self._rows:
            now = self._context.work.instance(row.id)
            # a reboot counts no restart; what this very transaction made has none
            if now is None or now.restarts > self._restarts_before(row):
                ended = now.last_exit if now else "it is gone"
                return f"{row.id} did not stay up: {ended}"
            for check in self._checks:
                reason = self._make(row, check)
                if reason:
                    return reason
        return self._proxy_errors()

    def _restarts_before(self, row: InstanceRow) -> int:
        return self._restarts[row.id] if self._live else 0

    @property
    def unseen(self) -> str:
        """What nobody could look at the last time, "" when every check was made."""
        return next((f"check {name} of {one}: {why}" for (one, name), why in self._unmade.items()), "")

    def pause(self, until: float) -> float:
        """Return the seconds until something is due, `until` (monotonic) at the latest."""
        now = self._context.clock.monotonic()
        return max(0.01, min([until, *self._due.values()]) - now)

    def _make(self, row: InstanceRow, check: Check) -> str:
        key = (row.id, check.name)
        now = self._context.clock.monotonic()
        if self._due.get(key, 0.0) > now:
            return ""
        self._due[key] = now + check.interval / 1000
        result = look(self._context, row, check)
        self._failures[key] = count_failures(self._failures.get(key, 0), result)
        self._unmade.pop(key, None)
        if not result.made:
            self._unmade[key] = result.detail
        return judge_check(row.id, check, failures=self._failures[key], detail=result.detail)

    def _proxy_errors(self) -> str:
        """Compare the proxy's own numbers with the share of errors that the release allows."""
        allowed = self._release.update.max_error_percent
        if allowed >= 100:
            return ""
        numbers = self._count()
        if self._base is None:
            self._base = numbers
        return judge_answers(self._base, numbers, allowed=allowed)

    def _count(self) -> dict[str, tuple[int, int]]:
        policy = self._context.effective(self._release.service)
        slots = {one.slot for one in self._rows}
        found: dict[str, tuple[int, int]] = {}
        for port in {route.port for route in policy.net.routes}:
            for number, one in self._context.drivers.ingress.counters(f"{policy.service}:{port}").items():
                if number in slots:
                    found[f"{port}/{number}"] = (one.total, one.errors)
        return found
