"""Many kills, one after the other: which process, in which state of a transaction, during which work; then everything
is looked at."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from nebh.model.service import Update
from nebh.model.statement import Outcome, Phase
from nebh.testing.crash.site import BAD, GOOD, NEVER_READY, VICTIMS, Site
from nebh.testing.invariants import find_instant_faults, wait_until, wait_whole
from nebh.testing.journal_view import Floors, floors_of, open_journal

STATES = ("ASSIGNED", "PREPARING", "PREPARED", "STARTING", "CHECKING", "HEALTHY", "ROLLING_BACK")
_BACK = tuple(f"{name}.{side}" for name in ("back.switch", "back.endpoints") for side in ("before", "after"))
POINTS: dict[str, tuple[str, ...]] = {
    "ASSIGNED": ("state.preparing.before",),
    "PREPARING": (
        "state.preparing.after",
        *(
            f"prepare.{name}.{side}"
            for name in ("manifest", "objects", "materialise", "sync", "config", "attach", "create", "rules", "slots")
            for side in ("before", "after")
        ),
        "container.create.after",
        "state.prepared.before",
    ),
    "PREPARED": ("state.prepared.after", "state.starting.before"),
    "STARTING": (
        "state.starting.after",
        *(f"{n}.{s}" for n in ("start.start", "cutover.switch", "cutover.endpoints") for s in ("before", "after")),
        "state.cutting_over.before",
    ),
    "CHECKING": (
        "state.checking.after",
        *(f"{name}.{side}" for name in ("cutover.names", "cutover.record") for side in ("before", "after")),
        "state.healthy.before",
        "state.rolling_back.before",
        *_BACK,
    ),
    "HEALTHY": ("state.healthy.after", "state.committed.before"),
    "ROLLING_BACK": (
        "state.rolling_back.after",
        *_BACK,
        "state.rolled_back.before",
    ),
    "": (
        "state.committed.after",
        *(
            f"sweep.{name}.{side}"
            for name in ("retire", "stop", "delete", "detach", "rules", "slots", "prune")
            for side in ("before", "after")
        ),
        "container.delete.after_processes",
    ),
}
ONLY_NEW = ("prepare.manifest", "prepare.objects", "prepare.materialise", "prepare.sync")
UNHURT = ("agent", "controller", "executor")
"""Whose death no request may notice."""


@dataclass(frozen=True)
class Shot:
    """One planned kill. point "": at a random instant, `delay` of a usual transaction after it was found open."""

    victim: str
    point: str
    work: str
    delay: float
    reboot: bool


@dataclass
class Tally:
    """What happened."""

    seed: int
    cells: Counter[tuple[str, str]] = field(default_factory=Counter)
    works: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    back: list[float] = field(default_factory=list)
    requests: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    @classmethod
    def sum(cls, tallies: Iterable[Tally]) -> Tally:
        """Return what happened in several clouds together, with the seed of the first."""
        first, *others = tallies
        for other in others:
            for name in ("cells", "works", "outcomes", "points", "failed"):
                getattr(first, name).update(getattr(other, name))
            first.back += other.back
            first.requests += other.requests
        return first

    @property
    def kills(self) -> int:
        return sum(self.cells.values())

    @property
    def inside(self) -> float:
        """The share of kills that landed inside an open transaction."""
        return sum(count for (state, _), count in self.cells.items() if state) / max(1, self.kills)

    def table(self) -> str:
        """Return the table state x process, and figures below it."""
        head = f"{'found in':14}" + "".join(f"{victim:>12}" for victim in VICTIMS) + f"{'all':>8}"
        lines = [f"seed {self.seed}: {self.kills} kills, {self.inside:.0%} inside an open transaction", head]
        for state in (*STATES, ""):
            row = [self.cells[state, victim] for victim in VICTIMS]
            lines.append(f"{state or '(none open)':14}" + "".join(f"{n:12}" for n in row) + f"{sum(row):8}")
        back = sorted(self.back)
        lines += [
            f"at {sum(self.points.values())} named points ({len(self.points)} different), the rest at random instants",
            "work: " + ", ".join(f"{name} {count}" for name, count in sorted(self.works.items())),
            "outcomes: " + ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items())),
            f"the service answered again after {back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s (longest)"
            if back
            else "",
            f"requests: {self.requests}; failed by what was killed: {dict(self.failed)}",
        ]
        return "\n".join(lines)

    def empty_rows(self) -> list[str]:
        """Return the states in which nothing was killed."""
        return [state for state in STATES if not any(self.cells[state, victim] for victim in VICTIMS)]


def plan_shots(rng: random.Random) -> Iterator[Shot]:
    """Yield kills without end: first every state with every process, then as chance has it."""
    for turn, (index, state) in itertools.product(range(len(VICTIMS)), enumerate(STATES)):
        yield _shot(rng, state, VICTIMS[(index + turn) % len(VICTIMS)])
    while True:
        kind = rng.random()
        victim = rng.choice(VICTIMS)
        if kind < 0.30:
            work = rng.choice(("deploy", "rollback", "scale", "restart", "fail", "unready"))
            yield Shot(victim, "", work, rng.random(), reboot=rng.random() < 0.5)
        elif kind < 0.38:
            yield _shot(rng, "", victim)
        else:
            yield _shot(rng, rng.choice(STATES), victim)


def _shot(rng: random.Random, state: str, victim: str) -> Shot:
    point = rng.choice(POINTS[state])
    work = rng.choice(("deploy", "deploy", "rollback", "restart"))
    if state == "ROLLING_BACK":
        work = "unready"  # one that was on trial is journalled as ROLLED_BACK at once
    elif point in (*_BACK, "state.rolling_back.before"):
        work = "fail"
    elif point.startswith(ONLY_NEW):
        work = "deploy"
    return Shot(victim, point, work, rng.random(), reboot=rng.random() < 0.5)


class Campaign:
    """See above. Raises AssertionError with everything known as soon as something is wrong."""

    def __init__(self, site: Site, *, seed: int, say: Callable[[str], None], victims: tuple[str, ...]) -> None:
        self._site = site
        self._victims = victims
        self._say = say
        self._rng = random.Random(seed)
        self.tally = Tally(seed=seed)
        self._good = 1  # the release that is committed
        self._earlier: list[int] = []
        self._replicas = 1
        self._floors = Floors()

    def run(self, kills: int) -> Tally:
        """Kill so often."""
        shots = self.shots()
        while self.tally.kills < kills:
            shot = next(shots)
            if shot.victim not in self._victims:
                continue
            try:
                self._one(shot)
            except AssertionError as error:
                raise AssertionError(f"kill {self.tally.kills + 1}, {shot}: {error}\n{self.tally.table()}") from error
        return self.tally

    def shots(self) -> Iterator[Shot]:
        """Return the plan."""
        return plan_shots(self._rng)

    def _one(self, shot: Shot) -> None:
        site, first = self._site, len(self._site.rows)
        executor = site.pid_of("executor")
        if shot.point:
            site.arm(shot.point)
        target, nonce = self._begin(shot.work)
        if not self._hold(shot, executor, nonce):
            site.disarm()
            self._settle(target, nonce, shot)
            return
        state = site.state()
        if not site.slay(shot.victim, reboot=shot.reboot):
            site.let_go(executor)
            self._settle(target, nonce, shot)
            return
        died = time.monotonic()
        self._judge_instant()
        site.let_go(executor)
        if shot.victim == "everything":
            site.begin_programs()
        wait_until(site.serves, "the service answers", site)
        self.tally.back.append(time.monotonic() - died)
        outcome = self._settle(target, nonce, shot)
        self._count(shot, state, outcome, first)
        if shot.victim == "everything":
            site.begin_load()

    def _begin(self, work: str) -> tuple[int, str]:
        """Begin something; return (the release it asks for, the nonce)."""
        site = self._site
        update = Update(bake=300, checks=(GOOD,), drain=1000)
        if work == "rollback" and not self._earlier:
            work = "deploy"
        if work == "deploy":
            target = site.publish(update=update)
        elif work == "fail":
            target = site.publish(update=Update(bake=300, checks=(BAD,), drain=1000))
        elif work == "unready":
            target = site.publish(update=update, health=NEVER_READY)
        elif work == "rollback":
            target = self._earlier[-1]
        else:
            target = self._good
        if work == "scale":
            self._wanted = self._replicas % 2 + 1
        else:
            self._wanted = self._replicas
        phase = Phase.RESTART if work == "restart" else Phase.RUN
        return target, site.wish(target, replicas=self._wanted, phase=phase)

    def _hold(self, shot: Shot, executor: int, nonce: str) -> bool:
        """Have the executor stand still where the kill shall land; False when it never came there."""
        site = self._site
        if shot.point:
            wait_until(lambda: site.is_held(executor) or self._is_over(nonce), f"{shot.point} is passed", site)
            # an end that is journalled already: what follows it may still pass the point
            end = time.monotonic() + (20 if shot.point in POINTS[""] else 0.3)
            while not site.is_held(executor) and time.monotonic() < end:
                time.sleep(0.01)
            return site.is_held(executor)
        wait_until(lambda: bool(site.state()) or self._is_over(nonce), "a transaction is open", site)
        time.sleep(shot.delay * 0.9)
        site.hold(executor)
        return True

    def _is_over(self, nonce: str) -> bool:
        with open_journal(self._site.layout.journal) as journal:
            said = journal.outcomes(nonce)
            ends = {Outcome.COMMITTED, Outcome.ROLLED_BACK, Outcome.REFUSED, Outcome.FAILED, Outcome.DONE}
            return bool(said) and said[-1] in ends and not journal.states()

    def _judge_instant(self) -> None:
        """The machine as the kill left it, the executor dead or standing still."""
        faults = find_instant_faults(self._site)
        assert not faults, "right after the kill: " + "; ".join(faults)
        self._raise_floors()

    def _raise_floors(self) -> None:
        with open_journal(self._site.layout.journal) as journal:
            now = floors_of(journal)
        lower = now.lower_than(self._floors)
        assert not lower, "; ".join(lower)
        self._floors = now

    def _settle(self, target: int, nonce: str, shot: Shot) -> str:
        """Wait for the end of the work and for a whole node; what serves must be what its receipt says."""
        site = self._site
        wait_until(site.answers, "the executor answers", site)
        wait_until(site.governs, "the controller answers", site)
        wait_until(lambda: self._is_over(nonce), f"the work {nonce} ends", site)
        wait_whole(site, patience=90)
        self._raise_floors()
        with open_journal(site.layout.journal) as journal:
            outcome = journal.outcomes(nonce)[-1]
            service = journal.work.service("web")
        assert service is not None
        if outcome is Outcome.COMMITTED:
            if target != self._good:
                self._earlier = [one for one in (*self._earlier, self._good) if one != target][-2:]
            self._good, self._replicas = target, self._wanted
        assert (service.counter, service.replicas) == (self._good, self._replicas), (outcome, service)
        if shot.work in ("fail", "unready"):
            assert outcome is not Outcome.COMMITTED, nonce
        status, body = site.get("/", host="web.example", timeout=30)
        assert (status, body.strip()) == (200, f'{{"version": "v{self._good}"}}'), (status, body, self._good)
        return str(outcome.value)

    def _count(self, shot: Shot, state: str, outcome: str, first: int) -> None:
        tally = self.tally
        tally.cells[state, shot.victim] += 1
        tally.works[shot.work] += 1
        tally.outcomes[outcome] += 1
        if shot.point:
            tally.points[shot.point] += 1
        rows = self._site.rows[first:]
        wrong = [row for row in rows if row.error]
        tally.requests += len(rows)
        tally.failed[shot.victim] += len(wrong)
        if shot.victim in UNHURT:
            assert not wrong, f"{len(wrong)} of {len(rows)} requests failed: {wrong[:3]}"
        self._say(
            f"{tally.kills:5} {shot.victim:10} in {state or '-':12} {shot.work:9} at {shot.point or 'random':28} "
            f"-> {outcome}, answered after {tally.back[-1]:.2f} s, {len(wrong)} of {len(rows)} requests failed"
        )


def run_campaign(
    site: Site, *, kills: int, seed: int, say: Callable[[str], None], victims: tuple[str, ...] = VICTIMS
) -> Tally:
    """Kill `kills` times in a cloud that has begun; of the planned kills those of `victims` alone."""
    try:
        return Campaign(site, seed=seed, say=say, victims=victims).run(kills)
    finally:
        site.end_load_later()
