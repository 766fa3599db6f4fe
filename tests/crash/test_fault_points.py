"""A real SIGKILL at every fault point, and a fresh executor that goes on as the recovery table says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nebh.executor.effects import EFFECTS, fault_points
from nebh.model.service import Update
from nebh.model.statement import Outcome
from nebh.testing.journal_view import open_journal
from nebh.testing.node import BAD, GOOD, Node
from nebh.testing.node_configs import read_files, reload_failing_its_check, reload_told_in_vain, reloading
from nebh.testing.node_secrets import rotating
from nebh.testing.whole import check_whole, decisions, outcomes

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

DECISIONS = {
    "ASSIGNED": "prepare-again",
    "PREPARING": "prepare-again",
    "PREPARED": "prepare-again",
    "STARTING": "back",
    "CHECKING": "forward",
    "HEALTHY": "forward",
    "ROLLING_BACK": "finish-rollback",
}
ORDER = ("ASSIGNED", "PREPARING", "PREPARED", "STARTING", "CHECKING", "HEALTHY", "")
ENTERED = {
    "preparing": "PREPARING",
    "prepared": "PREPARED",
    "starting": "STARTING",
    "cutting_over": "CHECKING",
    "checking": "CHECKING",
    "healthy": "HEALTHY",
    "committed": "",
    "rolling_back": "",
    "rolled_back": "",
    "refused": "",
    "dropped": "",
}
BEFORE = {
    "preparing": "ASSIGNED",
    "prepared": "PREPARING",
    "starting": "PREPARED",
    "cutting_over": "STARTING",
    "checking": "STARTING",
    "healthy": "CHECKING",
    "committed": "HEALTHY",
    "rolling_back": "CHECKING",
    "rolled_back": "CHECKING",
    "refused": "ASSIGNED",
    "dropped": "PREPARING",
}
DURING = {
    "prepare": "PREPARING",
    "start": "STARTING",
    "cutover.switch": "STARTING",
    "cutover.endpoints": "STARTING",
    "cutover": "CHECKING",
    "back.switch": "CHECKING",
    "back.endpoints": "CHECKING",
    "back.revive": "ROLLING_BACK",
    "back.give": "ROLLING_BACK",
    "back.tell": "ROLLING_BACK",
    "back.end": "ROLLING_BACK",
    "back": "",
    "reload": "STARTING",
    "sweep": "",
    "revive": "",
    "rotate": "",
}


def state_at(point: str) -> str:
    """Return the last journalled state at a fault point, "" when no transaction is open then."""
    name, _, side = point.rpartition(".")
    first, _, second = name.partition(".")
    if first == "state":
        return (BEFORE if side == "before" else ENTERED)[second]
    return DURING.get(name, DURING.get(first, ""))


# scenarios: what makes the executor pass a point; each returns (the release it asks for, the nonce)


def update(node: Node) -> tuple[int, str]:
    counter = node.publish_release()
    return counter, node.assign(counter)


def failing(node: Node) -> tuple[int, str]:
    counter = node.publish_release(update=Update(bake=30_000, checks=(BAD,), drain=500))
    return counter, node.assign(counter)


def yielding(node: Node) -> tuple[int, str]:
    counter = node.publish_release(update=Update(bake=30_000, checks=(BAD,), drain=500, overlap=False))
    return counter, node.assign(counter)


def crashing(node: Node) -> tuple[int, str]:
    (one,) = node.instances("serving")
    os.kill(one["pid"], signal.SIGKILL)
    return one["counter"], ""


def refused(node: Node) -> tuple[int, str]:
    return 99_999, node.assign(99_999)


def dropped(node: Node) -> tuple[int, str]:
    counter = node.publish_release()
    for path in (node.served / "objects").iterdir():
        if path.read_bytes() == f"v{counter}\n".encode():
            path.unlink()
    return counter, node.assign(counter)


@dataclass(frozen=True)
class Scenario:
    act: Callable[[Node], tuple[int, str]]
    ends_new: bool
    outcome: Outcome | None


UPDATE = Scenario(update, True, Outcome.COMMITTED)
RELOADS_BACK = Scenario(reload_failing_its_check, False, Outcome.ROLLED_BACK)
YIELDING = Scenario(yielding, False, Outcome.ROLLED_BACK)
SCENARIOS = {
    "start.yield": YIELDING,
    "back.revive": YIELDING,
    "reload": Scenario(reloading, True, Outcome.COMMITTED),
    "back.give": RELOADS_BACK,
    "back.tell": RELOADS_BACK,
    "back.end": Scenario(reload_told_in_vain, False, Outcome.ROLLED_BACK),
    "back": Scenario(failing, False, Outcome.ROLLED_BACK),
    "state.rolling_back": Scenario(failing, False, Outcome.ROLLED_BACK),
    "state.rolled_back": Scenario(failing, False, Outcome.ROLLED_BACK),
    "revive": Scenario(crashing, False, None),
    "rotate": Scenario(rotating, True, None),  # what became of it: test_secret_rotation
    "state.refused": Scenario(refused, False, Outcome.REFUSED),
    "state.dropped": Scenario(dropped, False, Outcome.FAILED),
}


def scenario_of(point: str) -> Scenario:
    """Return what passes a point."""
    name = point.rpartition(".")[0]
    return SCENARIOS.get(name, SCENARIOS.get(name.partition(".")[0], UPDATE))


RELOADING = (reloading, reload_failing_its_check, reload_told_in_vain)
ELSEWHERE = (
    "data.",
    "hook.",
    "storage.",
    "prepare.volumes",
    "start.attach",
    "start.create",
    "back.yield",
    "backup.",
    "certificate.",
    "rehearse.",
)
"""What only a service with data, hooks, backups or certificates passes: killed at in test_data_kills.py,
test_backup_kills.py, test_rehearse_kills.py, tests/executor/test_data.py and tests/acme."""

TABLE: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Leave a table of what was found and decided at every point."""
    yield
    folder = Path(__file__).parents[2] / "build"
    if TABLE and folder.is_dir():
        head = [
            "fault point | journalled state | decision | served while down | serves now",
            "--- | --- | --- | --- | ---",
        ]
        (folder / "fault-points.md").write_text("\n".join([*head, *TABLE, ""]))


def die_and_recover(node: Node, point: str, *, power: bool, slowly: bool = False) -> None:
    """Kill the executor at `point`; have a fresh one go on; look at everything. slowly: on the way back by ROLLING_BACK."""
    old = node.instances("serving")[0]["counter"]
    node.end_executor()
    node.start(fault=point)
    node.settle()
    wish = YIELDING if slowly else scenario_of(point)
    new, nonce = wish.act(node)
    if wish.act in RELOADING:
        old = new - 1  # the scenario's own, with the files that are changed then
    status = node.wait_executor(patience=120)
    assert status == -signal.SIGKILL, f"the executor lives on or ended otherwise: {status}\n{node.tail()}"
    assert node.trace.read_text().splitlines()[-1:] == [point] or point in node.trace.read_text().splitlines()
    meanwhile = "" if power else node.page()
    if power:
        node.power_cut()
        node.power_on()
    else:
        node.start()
    node.settle()
    state = SLOWLY[point] if slowly else state_at(point)
    found = decisions(node)
    assert found == ([(state, DECISIONS[state])] if state else []), point
    check_whole(node, new if wish.ends_new else old)
    if wish.act in RELOADING:
        assert read_files(node) == (f"v{new} good\n", f"v{new}\n") if wish.ends_new else (f"v{old} good\n", f"v{old}\n")
        ended = {"status 503"} if point == "back.end.after" else set()  # and nobody is there to make it anew
        assert meanwhile in {"", f"v{old}", f"v{new}", *ended}
    if wish.outcome is not None:
        assert outcomes(node, nonce)[-1] == wish.outcome, (point, outcomes(node, nonce))
    if not power and wish.act is update:
        switched = state_at(point) in ("CHECKING", "HEALTHY", "") or point in SWITCHED
        assert meanwhile == f"v{new if switched else old}", f"while the executor was dead: {meanwhile}"
    decided = found[0][1] if found else "nothing is open"
    TABLE.append(
        f"{point}{' + power cut' if power else ''} | {state or 'ended'} | {decided} | {meanwhile} | {node.page()}"
    )


SWITCHED = (
    "cutover.switch.after",
    "cutover.endpoints.before",
    "cutover.endpoints.after",
    "state.checking.before",
    "state.cutting_over.before",
)
POWER = (
    "reload.give.after",
    "state.preparing.after",
    "start.start.after",
    "state.checking.after",
    "state.rolling_back.after",
    "state.prepared.after",
    "state.starting.after",
    "cutover.switch.after",
    "state.healthy.after",
    "state.committed.after",
    "state.rolled_back.after",
    "reload.tell.before",
    "back.give.after",
)


def some_daily(*names: str) -> list[object]:
    """Two of them daily, all of them in the long tests."""
    return [*names[:2], *(pytest.param(one, marks=pytest.mark.long) for one in names[2:])]


def point_of(name: str) -> object:
    """Daily: after each effect and around each state. Before an effect is where the one before it left things."""
    daily = name.endswith(".after") or name.startswith("state.")
    return name if daily else pytest.param(name, marks=pytest.mark.long)


@pytest.mark.parametrize("point", [point_of(one) for one in fault_points() if not one.startswith(ELSEWHERE)])
def test_killed_and_recovered(node: Node, point: str) -> None:
    die_and_recover(node, point, power=False)


SLOWLY = {
    "state.rolling_back.after": "ROLLING_BACK",
    "back.switch.before": "ROLLING_BACK",
    "back.switch.after": "ROLLING_BACK",
    "back.endpoints.after": "ROLLING_BACK",
    "state.rolled_back.before": "ROLLING_BACK",
    "state.rolled_back.after": "",
}


@pytest.mark.parametrize("point", some_daily(*SLOWLY))
def test_killed_on_the_slow_way_back(node: Node, point: str) -> None:
    """What cannot go back at once, since the old side does not run, journals ROLLING_BACK first."""
    die_and_recover(node, point, power=False, slowly=True)


TOLD = (
    "state.rolling_back.before",
    "back.switch.before",
    "back.switch.after",
    "back.endpoints.after",
    "state.rolled_back.before",
    "state.rolled_back.after",
)


@pytest.mark.parametrize("point", some_daily(*TOLD))
def test_killed_while_told_to_go_back(node: Node, point: str) -> None:
    """The switch comes before the journal: until the commit nothing was said, and the same bytes are taken again."""
    old = node.instances("serving")[0]["counter"]
    node.end_executor()
    node.start(fault=point)
    node.settle()
    new = node.publish_release(update=Update(bake=600_000, checks=(GOOD,), drain=500))
    trial = node.assign(new)
    node.until(lambda: node.trace.exists() and "cutover.record.after" in node.trace.read_text(), "it is on trial")
    time.sleep(0.5)  # a command in the first moments is journalled by itself, and carried out by the trial
    back = node.assign(old)
    told = node.submitted
    assert node.wait_executor(patience=120) == -signal.SIGKILL, node.tail()
    with open_journal(node.layout.journal) as journal:
        taken, state = journal.accepted.seq() == node.seq, journal.states().get("web", "")
    assert state == ("" if point == "state.rolled_back.after" else "CHECKING"), "one commit, after the switch"
    assert taken or state
    assert node.page() == f"v{new if point == 'back.switch.before' else old}"
    node.start()
    if taken:
        node.settle()
    else:
        assert decisions(node) == [("CHECKING", "forward")]
        assert node.page() == f"v{new}"
    node.submit("assignment", told)
    check_whole(node, old)
    assert outcomes(node, trial)[-1] == Outcome.ROLLED_BACK
    node.until(lambda: set(outcomes(node, back)) == {Outcome.COMMITTED}, "one verdict, though it was offered twice")


@pytest.mark.parametrize("point", [*POWER[:5], *(pytest.param(point, marks=pytest.mark.long) for point in POWER[5:])])
def test_power_cut_and_recovered(node: Node, point: str) -> None:
    die_and_recover(node, point, power=True)


def test_points_are_many() -> None:
    assert len(fault_points()) >= 40
    assert all(f"{name}.{side}" in fault_points() for name in EFFECTS for side in ("before", "after"))
