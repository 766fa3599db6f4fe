"""A real SIGKILL at every fault point, and a fresh executor that goes on as the recovery table says."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nebh.executor.effects import EFFECTS, fault_points
from nebh.model.network import addresses
from nebh.model.service import Update
from nebh.model.statement import Outcome, Receipt
from nebh.signing.statements import peek_statement
from nebh.testing.node import BAD, GOOD, SUBNETS, Node

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
    "rolling_back": "ROLLING_BACK",
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
    "rolled_back": "ROLLING_BACK",
    "refused": "ASSIGNED",
    "dropped": "PREPARING",
}
DURING = {
    "prepare": "PREPARING",
    "start": "STARTING",
    "cutover.switch": "STARTING",
    "cutover.endpoints": "STARTING",
    "cutover": "CHECKING",
    "back.switch": "ROLLING_BACK",
    "back.endpoints": "ROLLING_BACK",
    "back.revive": "ROLLING_BACK",
    "back": "",
    "sweep": "",
    "revive": "",
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
    counter = node.publish_release(update=Update(bake=5000, checks=(BAD,), drain=500))
    return counter, node.assign(counter)


def yielding(node: Node) -> tuple[int, str]:
    counter = node.publish_release(update=Update(bake=5000, checks=(BAD,), drain=500, overlap=False))
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
SCENARIOS = {
    "start.yield": Scenario(yielding, False, Outcome.ROLLED_BACK),
    "back.revive": Scenario(yielding, False, Outcome.ROLLED_BACK),
    "back": Scenario(failing, False, Outcome.ROLLED_BACK),
    "state.rolling_back": Scenario(failing, False, Outcome.ROLLED_BACK),
    "state.rolled_back": Scenario(failing, False, Outcome.ROLLED_BACK),
    "revive": Scenario(crashing, False, None),
    "state.refused": Scenario(refused, False, Outcome.REFUSED),
    "state.dropped": Scenario(dropped, False, Outcome.FAILED),
}


def scenario_of(point: str) -> Scenario:
    """Return what passes a point."""
    name = point.rpartition(".")[0]
    return SCENARIOS.get(name, SCENARIOS.get(name.partition(".")[0], UPDATE))


def outcomes(node: Node, nonce: str) -> list[Outcome]:
    """Return what the node's receipts say of a command, oldest first."""
    found = []
    after = 0
    while batch := node.ask({"op": "poll", "receipt": after, "event": 0, "wait_ms": 0})["receipts"]:
        for number, body in batch:
            after = number
            receipt = peek_statement(base64.b64decode(body), "receipt", Receipt)
            if receipt.nonce == nonce:
                found.append(receipt.outcome)
    return found


def decisions(node: Node) -> list[tuple[str, str]]:
    """Return (state found, decision) of what the newest executor found open."""
    found: list[tuple[str, str]] = []
    after = 0
    while batch := node.ask({"op": "poll", "receipt": 0, "event": after, "wait_ms": 0})["events"]:
        for event in batch:
            after = event["number"]
            if event["kind"] == "transaction.recovered":
                found.append((event["facts"]["state"], event["facts"]["decision"]))
            if event["kind"] == "executor.started" and after < last_start(node):
                found.clear()
    return found


def last_start(node: Node) -> int:
    """Return the number of the last `executor.started` event."""
    newest, after = 0, 0
    while batch := node.ask({"op": "poll", "receipt": 0, "event": after, "wait_ms": 0})["events"]:
        for event in batch:
            after = event["number"]
            newest = after if event["kind"] == "executor.started" else newest
    return newest


def names_below(path: Path) -> set[str]:
    return {one.name for one in path.iterdir() if one.name.startswith("web-")} if path.exists() else set()


def conmons(node: Node) -> list[str]:
    """Return the instance of every conmon of this node."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"conmon") and any(str(node.folder).encode() + b"/" in word for word in words):
            found.append(words[words.index(b"-c") + 1].decode())
    return sorted(found)


def check_whole(node: Node, counter: int, *, replicas: int = 1) -> None:
    """One whole triple serves, everything agrees with the journal, nothing is left over."""
    node.settle()
    status = node.status()
    rows = status["instances"]
    assert status["transactions"] == []
    assert [(row["role"], row["counter"], row["status"]) for row in rows] == [
        ("serving", counter, "running")
    ] * replicas
    assert [row["replica"] for row in rows] == list(range(replicas))
    names = sorted(row["id"] for row in rows)
    places = {addresses(SUBNETS, row["address"]).v4 for row in rows}
    node.until(lambda: node.page() == f"v{counter}", f"release {counter} answers (it says {node.page()})")
    assert {address for address, state in node.slots().items() if state != "maint"} == places
    rules = node.inside_text("nft", "list", "ruleset")
    pairs = rules.partition("map endpoints4")[2].partition("elements = {")[2].partition("}")[0]
    leads = dict(
        tuple(part.strip() for part in pair.split(" : "))
        for pair in pairs.replace("\n", " ").split(",")
        if " : " in pair
    )
    assert set(leads.values()) == places
    asked = node.inside_text("busybox", "nslookup", "-type=a", "web.nebh.internal", addresses(SUBNETS, 1).v4)
    assert {line.split()[-1] for line in asked.splitlines() if line.startswith("Address") and ":53" not in line} == set(
        leads
    )
    assert sorted(names_below(node.layout.run / "crun")) == names
    assert sorted(names_below(node.layout.bundles)) == names
    assert conmons(node) == names
    groups = {path.name for path in Path("/sys/fs/cgroup").glob(f"**/{node.name}/web-*")}
    assert sorted(groups) == names
    links = {line.split(":")[1].strip().partition("@")[0] for line in node.inside_text("ip", "-o", "link").splitlines()}
    assert {name for name in links if name.startswith("nebh0")} == {f"nebh{row['address']:04x}" for row in rows}


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


def die_and_recover(node: Node, point: str, *, power: bool) -> None:
    """Kill the executor at `point`; have a fresh one go on; look at everything."""
    old = node.instances("serving")[0]["counter"]
    node.end_executor()
    node.start(fault=point)
    node.settle()
    wish = scenario_of(point)
    new, nonce = wish.act(node)
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
    state = state_at(point)
    found = decisions(node)
    assert found == ([(state, DECISIONS[state])] if state else []), point
    check_whole(node, new if wish.ends_new else old)
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
QUICK = fault_points()
POWER = (
    "state.preparing.after",
    "state.prepared.after",
    "state.starting.after",
    "start.start.after",
    "cutover.switch.after",
    "state.checking.after",
    "state.healthy.after",
    "state.committed.after",
    "state.rolling_back.after",
    "state.rolled_back.after",
)


@pytest.mark.parametrize("point", QUICK)
def test_killed_and_recovered(node: Node, point: str) -> None:
    die_and_recover(node, point, power=False)


@pytest.mark.parametrize("point", POWER)
def test_power_cut_and_recovered(node: Node, point: str) -> None:
    die_and_recover(node, point, power=True)


def test_points_are_many() -> None:
    assert len(fault_points()) >= 40
    assert all(f"{name}.{side}" in fault_points() for name in EFFECTS for side in ("before", "after"))
    assert GOOD.interval < 1000
