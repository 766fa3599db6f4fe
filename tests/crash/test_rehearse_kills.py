"""A real SIGKILL at every point of a rehearsal: the next executor leaves nothing of it, and nobody standing still."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from pathlib import Path

import pytest

from nebh.executor.effects import EFFECTS
from nebh.journal.rehearsals import Rehearsals
from nebh.model.network import addresses
from nebh.model.rehearsal import RehearsalRow
from nebh.model.service import Check, CheckKind, Health
from nebh.model.statement import Action, Outcome
from nebh.model.volume import DataRules, VolumeBound, VolumeClass, VolumeMount
from nebh.signing.wish import Wish
from nebh.testing.journal_view import open_journal
from nebh.testing.node import APP_PORT, SUBNETS, Node
from nebh.testing.whole import outcomes

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
DAILY = ("rehearse.rest.after", "rehearse.clone.after", "rehearse.start.after", "rehearse.drop.before")
POINTS = [f"{name}.{side}" for name in EFFECTS if name.startswith("rehearse.") for side in ("before", "after")]
DATA = {
    "volumes": (VolumeMount(name="data", path="/run"),),
    "data": DataRules(reads=(1,), writes=1),
}
NEVER = Check(name="never", kind=CheckKind.HTTP, port=APP_PORT, path="/missing", interval=100)


def with_data(node: Node, fault: str = "") -> None:
    """Have a node whose service owns a volume and has a release to go back to; its executor is armed with `fault`."""
    config = json.loads(node.layout.node_config.read_text())
    if config.get("storage", {}).get("driver") != "copy":
        node.layout.node_config.write_text(json.dumps({**config, "storage": {"driver": "copy"}}))
    node.end_executor()
    node.start(fault=fault)
    node.settle()
    with open_journal(node.layout.journal) as journal:
        known = bool(journal.volumes.volumes("web"))
    if not known:
        bound = VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20)
        node.sign(Wish(policies=(dataclasses.replace(node.next_policy(), volumes=(bound,)),)))
        for _ in range(2):
            node.assign(node.publish_release(policy_min_version=node.policy_version, **DATA))
            node.settle()


def under_way(node: Node) -> tuple[RehearsalRow, ...]:
    with open_journal(node.layout.journal) as journal:
        return Rehearsals(journal.database).rows()


def assert_nothing_left(node: Node) -> None:
    node.until(lambda: not under_way(node), "it is forgotten")
    serving = [one["id"] for one in node.instances()]
    assert len(serving) == 1
    assert [path.name for path in node.layout.bundles.iterdir()] == serving
    assert [path.name for path in node.layout.volumes.rglob("rehearse.*")] == []
    links = node.inside_text("ip", "-o", "link", "show", "type", "veth").splitlines()
    assert len(links) == 1, links
    node.until(lambda: node.page() == f"v{node.instances()[0]['counter']}", "it serves, and stands still no more")


@pytest.mark.parametrize(
    "point", [point if point in DAILY else pytest.param(point, marks=pytest.mark.long) for point in POINTS]
)
def test_a_rehearsal_cut_short_leaves_nothing(node: Node, point: str) -> None:
    with_data(node, fault=point)
    nonce = node.order(Action.REHEARSE)
    assert node.wait_executor(patience=120) == -signal.SIGKILL, node.tail()
    assert node.trace.read_text().splitlines()[-1] == point
    node.start()
    node.settle()
    assert_nothing_left(node)
    node.until(lambda: outcomes(node, nonce)[-1:] == [Outcome.FAILED], "it is receipted")


def test_it_reaches_nobody_and_nobody_reaches_it(node: Node) -> None:
    with_data(node)
    (serving,) = node.instances("serving")
    health = Health(readiness=NEVER, startup_timeout=120_000)
    counter = node.publish_release(policy_min_version=node.policy_version, health=health, **DATA)
    nonce = node.order(Action.REHEARSE, counter=counter)

    def pid() -> int:
        (row,) = under_way(node) or (None,)
        path = node.layout.bundles / (row.id if row else "none") / "ctr.pid"
        return int(path.read_text() or 0) if path.exists() else 0

    node.until(lambda: bool(pid()), "it runs")
    (row,) = under_way(node)
    its, own = (addresses(SUBNETS, number) for number in (row.address, serving["address"]))

    def connects(inside: int, address: str, port: int) -> bool:
        url = f"http://{address}:{port}/"
        words = ("nsenter", "-t", str(inside), "-n", "curl", "-s", "-m", "2", "-o", "/dev/null", url)
        return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 0

    node.until(lambda: connects(pid(), "127.0.0.1", APP_PORT), "the control: its program answers in its own network")
    assert not connects(pid(), own.v4, APP_PORT), "another instance"
    assert not connects(serving["pid"], its.v4, APP_PORT), "from another instance"
    assert not connects(pid(), str(addresses(SUBNETS, 3).v4), node.http_port), "the proxy of the host"
    assert not connects(pid(), str(addresses(SUBNETS, 16).v4), APP_PORT), "the endpoint of its own service"
    assert node.page() == f"v{serving['counter']}"
    assert its.v4 not in node.slots()
    before = Path(f"/proc/{serving['pid']}/stat").read_text().split()[21]
    ended = node.order(Action.END_REHEARSAL)
    node.until(lambda: outcomes(node, nonce)[-1:] == [Outcome.FAILED], "it was ended")
    assert outcomes(node, ended) == [Outcome.ACCEPTED]
    assert_nothing_left(node)
    assert Path(f"/proc/{serving['pid']}/stat").read_text().split()[21] == before, "the same process all the time"
