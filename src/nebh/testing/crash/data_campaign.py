"""Kills while data is written: updates that convert it, that break before and after the cut-over, restores and undos."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from nebh.model.kept import SnapshotKind
from nebh.model.statement import Action, Outcome, Phase
from nebh.planning.data import snapshot_to_restore
from nebh.testing.crash.campaign import Campaign, Shot, Tally
from nebh.testing.crash.data_site import BAD, STORED, DataSite
from nebh.testing.invariants import wait_until, wait_whole
from nebh.testing.journal_view import open_journal
from nebh.testing.tiny_service import HOST

WORKS = ("deploy", "convert", "break", "fail", "restore", "undo", "restart", "snapshot")
REWINDING = frozenset({"restore", "undo"})
_SIDES = ("before", "after")
POINTS: dict[str, tuple[str, ...]] = {
    "deploy": (
        *(f"{n}.{s}" for n in ("prepare.volumes", "start.yield", "data.snapshot", "start.start") for s in _SIDES),
        *(f"{n}.{s}" for n in ("state.cutting_over", "state.checking", "cutover.switch", "data.drop") for s in _SIDES),
        "volume.snapshot.begun",
        "volume.snapshot.copied",
    ),
    "convert": tuple(f"{n}.{s}" for n in ("hook.create", "hook.run", "start.create", "data.snapshot") for s in _SIDES),
    "break": (
        *(f"{n}.{s}" for n in ("hook.run", "back.yield", "data.restore", "back.revive", "data.drop") for s in _SIDES),
        "volume.restore.begun",
        "volume.restore.copied",
        "volume.restore.exchanged",
        "volume.restore.kept",
        "state.rolled_back.before",
    ),
    "fail": tuple(
        f"{n}.{s}" for n in ("state.rolling_back", "back.yield", "back.revive", "back.switch") for s in _SIDES
    ),
    "restore": (
        *(f"{n}.{s}" for n in ("data.snapshot", "data.restore", "start.create", "start.start") for s in _SIDES),
        "volume.restore.exchanged",
        "volume.restore.kept",
    ),
    "snapshot": (
        *(f"{n}.{s}" for n in ("data.freeze", "data.snapshot", "data.thaw") for s in _SIDES),
        "volume.snapshot.begun",
        "volume.snapshot.copied",
    ),
    "restart": tuple(f"{n}.{s}" for n in ("start.yield", "start.start") for s in _SIDES),
}
POINTS["undo"] = POINTS["restore"]
VICTIMS = ("executor", "everything")


def plan_data_shots(rng: random.Random) -> Iterator[Shot]:
    """Yield kills without end: every work in turn, at a point that it passes or at a random instant."""
    while True:
        for work in WORKS:
            point = rng.choice(POINTS[work]) if rng.random() < 0.75 else ""
            yield Shot(rng.choice(VICTIMS), point, work, rng.random(), reboot=rng.random() < 0.5)


class DataCampaign(Campaign):
    """See above. Raises AssertionError with everything known as soon as a row is lost or a triple mixed."""

    def __init__(self, site: DataSite, *, seed: int, say: Callable[[str], None]) -> None:
        super().__init__(site, seed=seed, say=say, victims=VICTIMS)
        self._rows_site = site
        self._plan = plan_data_shots(self._rng)

    def shots(self) -> Iterator[Shot]:
        """Its own plan."""
        return self._plan

    def _begin(self, work: str) -> tuple[int, str]:
        site = self._rows_site
        self._wanted = 1
        self._before, self._first = set(site.table()), len(site.acked)
        self._work = work
        if work == "restore":
            found = [snapshot_to_restore(site.snapshots(), epoch=1, counter=one) for one in reversed(self._earlier)]
            earlier = next((one for one in found if one is not None), None)
            if earlier is not None:
                return earlier.counter, site.restore(counter=earlier.counter)
        if work == "undo":
            aside = [one for one in site.snapshots() if one.kind is SnapshotKind.DISCARDED]
            if aside:
                newest = max(aside, key=lambda one: one.taken_at)
                return newest.counter, site.restore(counter=newest.counter, snapshot=newest.name)
        if work == "snapshot":
            return self._good, site.order(Action.SNAPSHOT)
        if work == "restart":
            return self._good, site.wish(self._good, replicas=1, phase=Phase.RESTART)
        convert = {"convert": ("1",), "break": ("1", "7")}.get(work, ())
        target = (
            site.publish_rows(convert=convert, checks=(BAD,)) if work == "fail" else site.publish_rows(convert=convert)
        )
        if work in REWINDING:
            self._work = "deploy"  # there is nothing to go back to yet
        return target, site.wish(target, replicas=1)

    def _judge_instant(self) -> None:
        super()._judge_instant()
        writers = self._rows_site.writers()
        assert writers <= 1, f"{writers} processes write the same data"

    def _settle(self, target: int, nonce: str, shot: Shot) -> str:
        site = self._rows_site
        wait_until(site.answers, "the executor answers", site)
        wait_until(site.governs, "the controller answers", site)
        wait_until(lambda: self._is_over(nonce), f"the work {nonce} ends", site)
        wait_whole(site, patience=90)
        wait_until(site.serves, "the service answers", site)
        self._raise_floors()
        with open_journal(site.layout.journal) as journal:
            outcome = journal.outcomes(nonce)[-1]
            service = journal.work.service("web")
        assert service is not None
        if outcome is Outcome.COMMITTED and target != self._good:
            self._earlier = [one for one in (*self._earlier, self._good) if one != target][-3:]
            self._good = target
        assert service.counter == self._good, (outcome, service)
        if shot.work in ("fail", "break"):
            assert outcome is not Outcome.COMMITTED, nonce
        if shot.work == "snapshot":
            assert outcome is Outcome.DONE, (nonce, outcome)
        self._judge_triple()
        self._judge_rows(rewound=self._work in REWINDING and outcome is Outcome.COMMITTED)
        return str(outcome.value)

    def _judge_triple(self) -> None:
        site = self._rows_site
        status, body = site.get("/", host=HOST, timeout=30)
        image, config, release, _, _ = body.split()
        mixed = (status, image, config, release) != (200, f"v{self._good}", f"v{self._good}", str(self._good))
        assert not mixed, f"mixed triple: release {self._good} serves, and answers {body!r}"
        volume = site.volume()
        assert volume.counter == self._good, f"mixed triple: release {self._good} serves, and {volume} has written"
        kept, found = {one.name for one in site.snapshots()}, site.stored()
        assert all(one.whole for one in site.snapshots()), f"unfinished snapshots are journalled: {site.snapshots()}"
        assert kept == found, f"snapshots of {STORED}: journalled are {kept}, there are {found}"

    def _judge_rows(self, *, rewound: bool) -> None:
        site = self._rows_site
        acked = set(site.acked[self._first :])
        table = site.table()
        numbers = [number for number, _ in table]
        assert numbers == list(range(1, len(table) + 1)), f"rows are not numbered through: {numbers[-20:]}"
        lost = (self._before | acked) - set(table)
        if rewound:
            lost -= site.put_aside()
        assert not lost, f"{len(lost)} committed rows are lost: {sorted(lost)[:5]} of {len(acked)} new"

    def _count(self, shot: Shot, state: str, outcome: str, first: int) -> None:  # noqa: ARG002 - as the base class has it
        tally = self.tally
        tally.cells[state, shot.victim] += 1
        tally.works[shot.work] += 1
        tally.outcomes[outcome] += 1
        if shot.point:
            tally.points[shot.point] += 1
        rows = len(self._rows_site.acked) - self._first
        tally.requests += rows
        self._say(
            f"{tally.kills:5} {shot.victim:10} in {state or '-':12} {shot.work:9} at {shot.point or 'random':28} "
            f"-> {outcome}, answered after {tally.back[-1]:.2f} s, {rows} rows"
        )


def run_data_campaign(site: DataSite, *, kills: int, seed: int, say: Callable[[str], None]) -> Tally:
    """Kill `kills` times in a cloud that has begun."""
    try:
        return DataCampaign(site, seed=seed, say=say).run(kills)
    finally:
        site.end_load_later()
