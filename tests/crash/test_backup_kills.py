"""A real SIGKILL at every fault point of a backup and of fetching one: nothing is left over, and it goes on by itself."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.executor.effects import fault_points
from nebh.model.backup import BackupRow, BackupRule, BackupWish
from nebh.model.kept import SnapshotKind
from nebh.model.service import Update
from nebh.model.statement import Action, Outcome
from nebh.model.volume import DataRules, VolumeBound, VolumeClass, VolumeMount
from nebh.testing.journal_view import open_journal
from nebh.testing.node_secrets import seal_token

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("restic") is None, reason="restic is not installed (packaging/packages.sh runtime)"
    ),
]
POINTS = tuple(one for one in fault_points() if one.startswith("backup."))
DAILY = ("backup.rest.after", "backup.fetch.after")
DATA = VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20)


@pytest.fixture
def backed(node):
    """The node with a release that has data, and a rule for its backups; its volumes are plain copies."""
    if "data" not in {one["name"] for one in node.status()["volumes"]}:
        node.end_executor()
        config = json.loads(node.layout.node_config.read_text())
        config["storage"] = {"driver": "copy"}
        node.layout.node_config.write_text(json.dumps(config))
        node.start()
        (node.folder / "store").mkdir(mode=0o700)
        rule = BackupRule(to=str(node.folder / "store"), password="password", every=300 * 86_400_000)
        policy = replace(node.next_policy(), secrets=("password",), backup=rule, volumes=(DATA,))
        seal_token(node, b"S3CR3T", 1, name="password", policy=policy)
        counter = node.publish_release(
            volumes=(VolumeMount(name="data", path="/www"),),
            data=DataRules(reads=(1,), writes=1),
            update=Update(bake=100, checks=(), drain=200),
            argv=(
                "/bin/busybox",
                "sh",
                "-c",
                f"echo v{node.counter + 1} > /www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www",
            ),
            policy_min_version=node.policy_version,
        )
        nonce = node.assign(counter)
        node.settle()
        assert last(node, nonce) is Outcome.COMMITTED, node.tail()
    return node


def last(node, nonce: str) -> Outcome | None:
    with open_journal(node.layout.journal) as journal:
        found = journal.outcomes(nonce)
    return found[-1] if found else None


def rows(node) -> tuple[BackupRow, ...]:
    with open_journal(node.layout.journal) as journal:
        return journal.backups.rows("web")


def finish(node, nonce: str, outcome: Outcome) -> None:
    node.until(lambda: last(node, nonce) is outcome, f"{nonce} is {outcome}", patience=120)
    node.settle()


def check_whole(node) -> None:
    with open_journal(node.layout.journal) as journal:
        kept = journal.volumes.snapshots("web")
        assert journal.backups.open_jobs() == ()
    assert {one.kind for one in kept} <= {SnapshotKind.RELEASE, SnapshotKind.DISCARDED}, kept
    there = {path.name for path in (node.layout.volumes / "volumes" / "web.data.0" / "kept").iterdir()}
    assert there == {one.name for one in kept}
    assert list((node.layout.volumes / "volumes" / ".making").iterdir()) == []
    assert node.page() == f"v{node.counter}", "the writer goes on"
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mine = str(node.folder).encode() in (path / "environ").read_bytes()
            assert not (mine and (path / "cmdline").read_bytes().startswith(b"restic\0")), path
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


@pytest.mark.parametrize(
    "point", [one if one in DAILY else pytest.param(one, marks=pytest.mark.long) for one in POINTS]
)
def test_killed_and_gone_on(backed, point):
    node = backed
    if point.startswith("backup.fetch"):
        if not rows(node):
            finish(node, node.order(Action.BACKUP), Outcome.DONE)
        run = rows(node)[-1].run
        wish, action, end = (
            BackupWish(rows=tuple(one for one in rows(node) if one.run == run)),
            Action.RESTORE,
            Outcome.COMMITTED,
        )
    else:
        wish, action, end = None, Action.BACKUP, Outcome.DONE
    before = len(rows(node))
    node.end_executor()
    node.start(fault=point)
    node.settle()
    nonce = node.order(action, backup=wish)
    assert node.wait_executor(patience=120) == -signal.SIGKILL, node.tail()
    node.start()
    finish(node, nonce, end)
    assert len(rows(node)) == before + (action is Action.BACKUP) or len(rows(node)) == before == 3, (
        "one backup came of it"
    )
    check_whole(node)


def test_every_point_of_a_backup_is_there():
    assert len(POINTS) == 14
    assert set(DAILY) <= set(POINTS)
