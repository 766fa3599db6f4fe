"""Cut-over and rollback with both sides warm, beside a reload of HAProxy, under requests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nebh.model.errors import NotFound
from nebh.model.service import Update
from nebh.testing.bench import machine
from nebh.testing.bench.client import Seen, read_seen
from nebh.testing.bench.record import Record
from nebh.testing.bench.reload import PORT, DockerPeer, ReloadPeer, a_reload_peer
from nebh.testing.bench.stage import Rounds, Settings, StampNode, a_node, asking, in_turns, scratch
from nebh.testing.docker import Docker
from nebh.testing.node import GOOD, HOST

NAME = "cutover"
TITLE = "Cut-over and rollback"
MS = 1e6
BAKE = Update(bake=600_000, checks=(GOOD,), drain=500)
KEEP = Update(bake=50, checks=(GOOD,), drain=500)
REST = 0.3
LONG = 200
Asks = Callable[[bool], None]


@dataclass(kw_only=True)
class Round:
    """What was done when, in ns. docker: ms of its stop and run. marks: of the executor, from the deploy to the end of the rollback."""

    number: int
    load: float
    reload: int = 0
    reload_from: str = ""
    docker: float | None = None
    marks: list[tuple[str, int]]


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    _with_image(settings, record, padding=0)
    if settings.seconds >= LONG:
        _with_image(settings, record, padding=500 << 20)
    else:
        record.skipped["an image of 500 MB"] = f"only with --seconds {LONG} and more"
    _figures(record)


def _with_image(settings: Settings, record: Record, *, padding: int) -> None:
    with a_node() as node, contextlib.ExitStack() as stack:
        docker = None if padding else _docker_peer(stack, record, node.folder)
        node.add_image("v1", padding=padding)
        node.add_image("v2", padding=padding)
        counter = node.publish_version("v1", update=KEEP)
        node.assign(counter)
        node.until(lambda: node.instances("serving") and node.quiet(), "v1 serves")
        out = (node.folder / "seen", node.folder / "seen-peer")
        rounds: list[Round] = []
        with (
            a_reload_peer(node, node.folder) as peer,
            asking(node, port=node.http_port, host=HOST, out=out[0]) as ours,
            asking(node, port=PORT, host=HOST, out=out[1]) as theirs,
        ):
            time.sleep(1)
            ours(False)
            theirs(False)
            wanted = Rounds(settings, usual=12 if padding else 44, quick=4)
            for number in wanted:
                rounds.append(_round(node, peer, number, ours, theirs))
                if docker is not None:
                    rounds[-1].docker = docker.swap()
        seen, peers = read_seen(out[0]), read_seen(out[1])
    _check(record, seen, peers, image="500 MB" if padding else "5 MB")
    for one in rounds:
        record.add("rounds", image="500 MB" if padding else "5 MB", **_row(one, seen, peers))


def _docker_peer(stack: contextlib.ExitStack, record: Record, folder: Path) -> DockerPeer | None:
    try:
        docker = stack.enter_context(Docker(scratch("d")))
    except NotFound as error:
        record.skipped["docker stop, docker run"] = str(error)
        return None
    record.facts["docker"] = f"{docker.version()} stop; run -d --network host"
    return DockerPeer(docker, folder)


def _round(node: StampNode, peer: ReloadPeer, number: int, ours: Asks, theirs: Asks) -> Round:
    """Deploy v2, go back to v1 while it is on trial; reload the peer before or after."""
    made = Round(number=number, load=machine.pressure(), marks=[])
    in_turns(number, partial(_there_and_back, node, made, ours), partial(_reload, peer, made, theirs))
    return made


def _there_and_back(node: StampNode, made: Round, asks: Asks) -> None:
    asks(True)
    before = len(node.passed())
    serving = node.instances("serving")[0]["counter"]
    counter = node.publish_version("v2", update=BAKE)
    node.assign(counter)
    node.until(lambda: node.open_state() == "CHECKING", "v2 is on trial")
    time.sleep(REST)
    node.assign(serving)
    node.settle()
    time.sleep(REST)
    asks(False)
    made.marks = node.passed()[before:]


def _reload(peer: ReloadPeer, made: Round, asks: Asks) -> None:
    asks(True)
    time.sleep(REST)
    made.reload, made.reload_from = peer.swap()
    time.sleep(1.0)
    asks(False)


def _row(one: Round, seen: Sequence[Seen], peers: Sequence[Seen]) -> dict[str, object]:
    """Return the times of a round in ms from the instant when the executor (or HAProxy) had what it needed."""
    at: dict[str, int] = {}
    submits = []
    for name, when in one.marks:
        if name == "door.submit":
            submits.append(when)
        at.setdefault(name, when)
    cut, back = at["cutover.begin"], submits[-1]
    ready, command = at["start.begin"], submits[0]
    first_new = min(two.received for two in seen if two.version == "v2" and two.received > command)
    row: dict[str, int | float] = {
        "round": one.number,
        "pressure": one.load,
        "cut_last_old": _last(seen, "v1", command, back) - cut,
        "cut_first_new": first_new - cut,
        "cut_switched": at["cutover.switched"] - cut,
        "cut_journalled": at["cutover.journalled"] - cut,
        "start_to_ready": cut - ready,
        "command_to_new": first_new - command,
        "back_last_new": _last(seen, "v2", command, at["back.journalled"] + 10**9) - back,
        "back_switched": at["back.switched"] - back,
        "back_switch_alone": at["back.switched"] - at["back.begin"],
        "back_journalled": at["back.journalled"] - back,
        "reload_last_old": _last(peers, one.reload_from, one.reload - 10**9, one.reload + 10**9) - one.reload,
    }
    found: dict[str, object] = {
        name: value / MS if isinstance(value, int) and name != "round" else value for name, value in row.items()
    }
    return found if one.docker is None else {**found, "docker_stop_run": one.docker}


def _last(seen: Sequence[Seen], version: str, after: int, before: int) -> int:
    """Return when the last request in this time was received by a version."""
    return max(one.received for one in seen if one.version == version and after < one.received < before)


def _check(record: Record, seen: Sequence[Seen], peers: Sequence[Seen], *, image: str) -> None:
    for who, rows in (("nebh", seen), ("reload", peers)):
        failed = sum(1 for one in rows if one.status != 200)
        record.add("requests", image=image, who=who, requests=len(rows), failed=failed)


def _figures(record: Record) -> None:
    small, big = {"image": "5 MB"}, {"image": "500 MB"}

    def figure(name: str, what: str, column: str, **more: Any) -> None:
        record.figure(name, what, table="rounds", columns=(column,), **{"where": small, **more})

    figure(
        "cutover", "both sides ready -> last request received by the old version", "cut_last_old", limit=2.0, aim=1.0
    )
    figure("cutover_p10", "the same, 10th percentile", "cut_last_old", statistic="p10")
    figure("cutover_switched", "both sides ready -> HAProxy has answered the switch", "cut_switched")
    figure("cutover_first_new", "both sides ready -> first request received by the new version", "cut_first_new")
    figure("cutover_done", "both sides ready -> journalled on disk, receipt signed", "cut_journalled")
    figure("start_and_readiness", "start of the new side -> it is ready", "start_to_ready")
    figure(
        "command_to_new",
        "executor has the command, files there -> first request received by the new version",
        "command_to_new",
    )
    figure(
        "rollback",
        "rollback: executor has the command -> last request received by the version on trial",
        "back_last_new",
        limit=2.0,
        aim=1.0,
    )
    figure("rollback_switch", "rollback, of that: computing and switching alone", "back_switch_alone")
    figure("rollback_done", "rollback: executor has the command -> journalled on disk", "back_journalled")
    figure("reload", "HAProxy reload -> last request received by the old version", "reload_last_old")
    figure("docker", "docker stop, docker run -> the new version answers; none answers meanwhile", "docker_stop_run")
    for name, what, column in (
        ("cutover_to_reload", "cut-over / HAProxy reload", "reload_last_old"),
        ("cutover_to_docker", "cut-over / docker stop and run", "docker_stop_run"),
    ):
        columns = ("cut_switched", column)
        record.figure(name, what, unit="x", statistic="ratio", table="rounds", columns=columns, where=small)
    figure(
        "cutover_500mb",
        "cut-over of an image of 500 MB: last request received by the old version",
        "cut_last_old",
        where=big,
    )
    for who in ("nebh", "reload"):
        record.figure(
            f"failed_{who}",
            f"requests that failed meanwhile ({who})",
            unit="",
            statistic="sum",
            table="requests",
            columns=("failed",),
            where={"who": who},
            limit=0.0 if who == "nebh" else None,
        )
