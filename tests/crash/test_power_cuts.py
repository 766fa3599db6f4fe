"""The power is cut at any instant of deploys, rollback, garbage collection and log rotation: every disk that this can
leave is built from a record of all writes and flushes, recovered by ext4, and started from."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from nebh.model.errors import NebhError
from nebh.model.service import Limits, Update
from nebh.model.statement import Outcome, Receipt
from nebh.testing.disks.disk import Disk, RecordedDisk, copy_sparse, find_obstacle
from nebh.testing.disks.recording import Cut, Recording
from nebh.testing.invariants import find_store_faults, wait_whole
from nebh.testing.journal_view import find_journal_faults, open_journal, receipts_from_poll
from nebh.testing.node import APP_PORT, BAD, GOOD, HOST, Forks, Node

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SIZE = 64 << 20
QUICK = Update(bake=100, checks=(GOOD,), drain=100)
FAILING = Update(bake=2000, checks=(BAD,), drain=100)
TALKATIVE = ("/bin/busybox", "httpd", "-f", "-v", "-v", "-p", str(APP_PORT), "-h", "/www")


@dataclass(frozen=True)
class Mark:
    """A receipt that somebody outside had read when the log was `at` bytes long."""

    at: int
    receipt: Receipt


class Notes:
    """Reads receipts as they come, and how long the log is then."""

    def __init__(self, node: Node, log: Path) -> None:
        self.marks: list[Mark] = []
        self._node, self._log = node, log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            after = self.marks[-1].receipt.number if self.marks else 0
            with contextlib.suppress(NebhError, OSError):
                wish = {"op": "poll", "receipt": after, "event": 1 << 50, "wait_ms": 500}
                found = receipts_from_poll(self._node.ask(wish)["receipts"])
                at = os.stat(self._log).st_size
                self.marks += [Mark(at, one) for one in found]

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()


@dataclass
class Story:
    """What was recorded. begin: length of the log when the first release stood."""

    node: Node
    disk: RecordedDisk
    recording: Recording
    marks: list[Mark]
    begin: int


def tell(node: Node) -> None:
    """Deploys (from the fourth on one image falls out of retention), a failing one, a rollback, a scaling, rotation."""
    for _ in range(3):
        node.assign(node.publish_release(update=QUICK, argv=TALKATIVE))
        node.settle()
    chatter(node)
    node.assign(node.publish_release(update=FAILING, argv=TALKATIVE))
    node.settle()
    node.assign(node.counter - 2)
    node.settle()
    node.assign(node.counter - 2, replicas=2)
    node.settle()
    node.assign(node.publish_release(update=QUICK, argv=TALKATIVE))
    node.settle()


def chatter(node: Node) -> None:
    """Have the log of the service outgrow its share: conmon begins new files, the executor drops old ones."""
    log = node.layout.logs / node.instances("serving")[0]["id"]
    line = "x" * 1500

    def rotated() -> bool:
        url = f"http://127.0.0.1:{node.http_port}/{line}"
        many = [word for _ in range(30) for word in ("-o", "/dev/null", url)]
        node.inside_text("curl", "-s", "-m", "20", "-H", f"Host: {HOST}", *many)
        return (log / "ctr.log.1").exists()

    node.until(rotated, "a log is rotated", patience=60)


@pytest.fixture(scope="module")
def story(machine: None) -> Iterator[Story]:
    if obstacle := find_obstacle():
        pytest.skip(f"no disk to record on: {obstacle}")
    folder = Path(f"/var/tmp/nt-{secrets.token_hex(3)}")
    forks = Forks()
    disk = RecordedDisk(folder.with_name(f"{folder.name}d"), size=SIZE)
    try:
        node = Node(folder, forks, mount=disk.mount)
        try:
            node.limits = Limits(memory=64 << 20, pids=32, log=1 << 20)
            node.begin()
            node.assign(node.publish_release(update=QUICK, argv=TALKATIVE))
            node.settle()
            notes = Notes(node, disk.log)
            begin = disk.log.stat().st_size
            tell(node)
            notes.close()
            node.power_cut()
            disk.unmount()
            assert disk.tell("count")["failed"] == 0
            yield Story(node, disk, Recording(disk.log), notes.marks, begin)
        finally:
            node.power_cut()
            disk.close()
            node.destroy()
    finally:
        forks.close()
        shutil.rmtree(folder.with_name(f"{folder.name}d"), ignore_errors=True)


def judge_disk(story: Story, image: Path, cut: Cut) -> None:
    """What every recovered disk holds, before any program of ours has touched it."""
    disk, node = Disk(image), story.node
    disk.mount(node.layout.state)
    try:
        with open_journal(node.layout.journal, alone=True) as journal:
            assert not find_journal_faults(journal), cut
            state = journal.accepted.state()
            told = {receipt.number: receipt for receipt in journal.receipts()}
            for mark in story.marks:
                if mark.at <= cut.at:
                    receipt = mark.receipt
                    assert told.get(receipt.number) == receipt, (str(cut), receipt)
                    assert state.sources["controller"][0] >= receipt.snapshot, cut
                    assert state.roles["targets"][0] >= receipt.targets, cut
                    assert state.roles["root"][0] >= receipt.root, cut
                    if receipt.outcome is Outcome.COMMITTED:
                        row = journal.accepted.release_row("web", 1, receipt.counter)
                        assert row is not None, cut
                        assert row.committed_at, cut
    finally:
        disk.unmount()
    assert disk.find_damage() == "", cut


def start_from(story: Story, image: Path, cut: Cut, *, deploy: bool) -> None:
    """An executor starts on the disk, brings everything to one whole release, and goes on."""
    disk, node = Disk(image), story.node
    disk.mount(node.layout.state)
    try:
        node.power_on()
        wait_whole(node)
        if deploy:
            node.seq += 1000
            node.assign(node.publish_release(update=QUICK, argv=TALKATIVE))
            node.settle()
            wait_whole(node)
        with open_journal(node.layout.journal) as journal:
            assert not find_store_faults(node, journal, deep=True), cut
            service = journal.work.service("web")
        assert service is not None
        node.until(lambda: node.page() == f"v{service.counter}", f"{cut}: release {service.counter} answers")
        if deploy:
            assert service.counter == node.counter, cut
    finally:
        node.power_cut()
        disk.unmount()
    assert disk.find_damage() == "", cut


def cut_power(story: Story, *, count: int, starts: int, seed: int) -> None:
    print(f"seed {seed}: {len(story.recording.writes)} writes, {len(story.recording.flushes)} flushes, {count} images")
    cuts = story.recording.cuts(after=story.begin, count=count, rng=Random(seed))
    assert len(cuts) == count
    assert any(one.kept for one in cuts)
    every = max(1, count // starts)
    base, image = story.disk.base.with_name("now"), story.disk.base.with_name("cut")
    copy_sparse(story.disk.base, base)
    for cut in story.recording.build(base, image, cuts):
        try:
            judge_disk(story, image, cut)
            if cut.number % every == 0:
                start_from(story, image, cut, deploy=cut.number % (10 * every) == 0)
        except BaseException:
            keep = Path(__file__).parents[2] / "build"
            if keep.is_dir():
                copy_sparse(image, keep / f"failed-cut-{seed}-{cut.number}.img")
            print(f"seed {seed}: {cut}")
            raise


def test_every_disk_of_a_power_cut_is_whole(story: Story) -> None:
    cut_power(story, count=60, starts=6, seed=5)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_three_hundred_disks_of_power_cuts(story: Story) -> None:
    cut_power(story, count=320, starts=320, seed=secrets.randbelow(1 << 32))


def test_a_flush_that_lied_would_be_found(story: Story) -> None:
    """The control: a disk that lost what was flushed after the first release is not taken for a whole one."""
    end = story.recording.flushes[-1]
    early = next(count for count, place in story.recording.flushes if place >= story.begin)
    base, image = story.disk.base.with_name("then"), story.disk.base.with_name("lost")
    copy_sparse(story.disk.base, base)
    (cut,) = story.recording.build(base, image, (Cut(0, end[1], early, ()),))
    with pytest.raises(AssertionError):
        judge_disk(story, image, cut)
