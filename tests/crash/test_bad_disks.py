"""A disk that is full, and one that answers a write with an error: one clear error, nothing lost, what runs runs on."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nebh.model.errors import NebhError
from nebh.model.service import Update
from nebh.model.statement import Outcome, Receipt
from nebh.testing.disks.disk import RecordedDisk, find_obstacle
from nebh.testing.invariants import find_store_faults, wait_whole
from nebh.testing.journal_view import find_journal_faults, floors_of, open_journal, receipts_from_poll
from nebh.testing.node import GOOD, Forks, Node

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SIZE = 48 << 20
WEIGHT = 2 << 20
QUICK = Update(bake=100, checks=(GOOD,), drain=100)
ENDS = {Outcome.COMMITTED, Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.REFUSED}


class Ward:
    """A node on a disk of ours."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.disk = RecordedDisk(folder.with_name(f"{folder.name}d"), size=SIZE)
        self.node = Node(folder, forks, mount=self.disk.mount)
        self.node.begin()
        self.node.assign(self.node.publish_release(update=QUICK))
        self.node.settle()

    def close(self) -> None:
        self.node.power_cut()
        self.disk.close()
        self.node.destroy()
        shutil.rmtree(self.disk.image.parent, ignore_errors=True)

    def new_disk_state(self) -> None:
        """As a person would: the cause is mended, the machine is started again."""
        self.node.power_cut()
        self.disk.tell("heal")
        self.disk.unmount()
        self.disk.mount(self.node.layout.state)
        with open_journal(self.node.layout.journal, alone=True) as journal:
            assert not find_journal_faults(journal)
        self.node.power_on()


@pytest.fixture(scope="module")
def ward(machine: None) -> Iterator[Ward]:
    if obstacle := find_obstacle():
        pytest.skip(f"no disk of our own: {obstacle}")
    forks = Forks()
    made = Ward(Path(f"/var/tmp/nt-{secrets.token_hex(3)}"), forks)
    try:
        yield made
    finally:
        made.close()
        forks.close()


def who(node: Node) -> list[tuple[str, int, int]]:
    return [(one["id"], one["pid"], one["started"]) for one in node.instances("serving")]


def running(one: tuple[str, int, int]) -> bool:
    """Tell whether the very process still runs, whatever our programs say."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{one[1]}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]) == one[2]
    return False


def wish(node: Node, counter: int) -> tuple[str, NebhError | None]:
    """Assign; return the nonce and the error that the door answered."""
    said: list[NebhError] = []
    ask = node.ask

    def listen(head: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        try:
            return ask(head, body)
        except NebhError as error:
            said.append(error)
            raise

    node.ask = listen  # type: ignore[method-assign]
    try:
        return node.assign(counter), (said[0] if said else None)
    finally:
        node.ask = ask  # type: ignore[method-assign]


def receipts(node: Node) -> list[Receipt]:
    found: list[Receipt] = []
    with contextlib.suppress(NebhError):
        while batch := node.ask(
            {"op": "poll", "receipt": found[-1].number if found else 0, "event": 1 << 50, "wait_ms": 0}
        )["receipts"]:
            found += receipts_from_poll(batch)
    return found


def end_of(node: Node, nonce: str) -> Receipt | None:
    """Return the receipt that ends a command, once the node is quiet; None when none could be written."""

    def quiet() -> bool:
        try:
            return node.quiet()
        except NebhError:
            return True  # it says so: that is its one clear error

    with contextlib.suppress(AssertionError):
        node.until(quiet, "it came to an end", patience=20)
    return next((one for one in reversed(receipts(node)) if one.nonce == nonce and one.outcome in ENDS), None)


def fill(folder: Path, *, leave: int) -> Path:
    """Take all space of a file system but `leave` bytes."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    with ballast.open("wb", buffering=0) as file:  # or what did not fit is written once more by its close
        os.posix_fallocate(file.fileno(), 0, max(4096, free.f_bavail * free.f_frsize - leave - 65536))
        with contextlib.suppress(OSError):
            while os.statvfs(folder).f_bavail * free.f_frsize > leave:
                file.seek(0, 2)
                file.write(b"\0" * 4096)
    return ballast


def disk_full(ward: Ward, *, leave: int, weight: int) -> str:
    node = ward.node
    before = who(node)
    counter = node.publish_release(
        update=QUICK, images={"main": node.make_image(f"v{node.counter + 1}", more=secrets.token_bytes(weight))}
    )
    old = node.page()
    ballast = fill(node.layout.state, leave=leave)
    try:
        nonce, refusal = wish(node, counter)
        receipt = end_of(node, nonce)
        assert refusal is not None or receipt is not None, node.tail()
        if receipt is not None and receipt.outcome is Outcome.COMMITTED:
            return "committed"
        words = str(refusal) if refusal is not None else receipt.detail if receipt is not None else ""
        assert "full" in words or "space" in words or "free" in words, words
        assert who(node) == before
        assert node.page() == old
        known = receipts(node)
    finally:
        ballast.unlink()
    node.settle()
    assert receipts(node)[: len(known)] == known
    assert node.assign(counter)
    wait_whole(node)
    assert node.page() == f"v{counter}", "with space it works"
    assert "Traceback" not in node.log.read_text()
    return words


# a large image meets the check before anything is fetched, a small one whichever write comes first
@pytest.mark.parametrize(
    ("leave", "weight"),
    [
        (0, WEIGHT),
        (600_000, WEIGHT),
        *(pytest.param(n * 8192, 0, marks=pytest.mark.long) for n in range(1, 24)),
        *(pytest.param(n * 700_000, WEIGHT, marks=pytest.mark.long) for n in range(2, 6)),
    ],
)
def test_a_full_disk_stops_a_deploy_and_nothing_else(ward: Ward, leave: int, weight: int) -> None:
    print(leave, disk_full(ward, leave=leave, weight=weight))


def broken_write(ward: Ward, *, after: int, count: int) -> str:
    """The write number `after` from now fails, and `count` - 1 more."""
    node = ward.node
    (before,) = who(node)
    old = node.page()
    counter = node.publish_release(update=QUICK)
    ward.disk.tell(f"fail {after} {count}")
    nonce, refusal = wish(node, counter)
    receipt = end_of(node, nonce)
    failed = ward.disk.tell("count")["failed"]
    known = receipts(node)
    committed = receipt is not None and receipt.outcome is Outcome.COMMITTED
    if not committed:
        assert running(before), (refusal, receipt)
        assert node.page() in (old, f"v{counter}")
    with open_journal(node.layout.journal) as journal:
        floors = floors_of(journal)
    ward.new_disk_state()
    wait_whole(node)
    with open_journal(node.layout.journal) as journal:
        assert not find_store_faults(node, journal, deep=True)
        assert floors_of(journal).lower_than(floors) == [] or count > 1
        told = {one.number: one for one in journal.receipts()}
        service = journal.work.service("web")
    assert all(told.get(one.number) == one for one in known), "what was acknowledged is there"
    assert service is not None
    assert node.page() == f"v{service.counter}"
    if committed:
        assert service.counter == counter
    assert "Traceback" not in node.log.read_text(), node.tail()
    return f"write {after}, {count} failing: {failed} failed, {receipt.outcome if receipt else refusal}"


@pytest.mark.long
@pytest.mark.parametrize(("after", "count"), [(25, 1), (5, 1_000_000), (40, 1_000_000)])
def test_a_write_fails(ward: Ward, after: int, count: int) -> None:
    print(broken_write(ward, after=after, count=count))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_writes_fail(ward: Ward) -> None:
    seed = secrets.randbelow(1 << 32)
    rng = Random(seed)
    print(f"seed {seed}")
    for after in rng.sample(range(150), 50):
        print(broken_write(ward, after=after, count=rng.choice((1, 2, 1_000_000))))
