"""What goes wrong near the end of a transaction is tried again until it works, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import errno
import hashlib

from nebh.model.errors import Failed
from nebh.model.service import Check, CheckKind, Update
from nebh.model.statement import Outcome

GOOD = Check(name="good", kind=CheckKind.HTTP, port=8080, path="/", interval=100)
FAILING = Update(bake=30_000, checks=(dataclasses.replace(GOOD, name="bad", path="/bad", failures=1),), drain=100)


class Often:
    """Fails so often, then does what it did before."""

    def __init__(self, call, times):
        self.call, self.times = call, times

    def __call__(self, *args):
        if self.times:
            self.times -= 1
            raise Failed("cannot do it: somebody killed it")
        return self.call(*args)


def roll_back_while(bench, driver, name, *, times):
    bench.deploy(1)
    bench.add_release(2, update=FAILING)
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    setattr(driver, name, Often(getattr(driver, name), times))
    bench.agent.sick.add("/bad")  # only now, so that the way back does not begin before the driver fails
    bench.settle()
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert bench.counters() == [1]
    assert [one.counter for one in bench.work.instances()] == [1]


def test_a_proxy_killed_while_going_back_is_started_and_told(bench):
    roll_back_while(bench, bench.ingress, "switch", times=1)
    assert not any(line.startswith("transaction.stuck") for line in bench.events())


def test_going_back_is_tried_until_it_works(bench):
    roll_back_while(bench, bench.ingress, "switch", times=5)
    stuck = [line for line in bench.events() if line.startswith("transaction.stuck")]
    assert len(stuck) == 1, "said once, however often it was tried"


def test_names_that_cannot_be_changed_back_at_once_are_changed_later(bench):
    roll_back_while(bench, bench.dns, "apply", times=3)
    assert any(line.startswith("transaction.unsettled") for line in bench.events())
    addresses = {pair.v4 for pairs in bench.dns.records.services.values() for pair in pairs}
    assert len(addresses) == 1


def test_a_dropped_deploy_leaves_no_file(bench):
    bench.deploy(1)
    store = bench.context.store
    before = store.usage()
    bench.add_release(2)
    del bench.agent.bytes[hashlib.sha256(b"v2").hexdigest()]  # its manifest comes, its object does not
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.FAILED
    bench.until(lambda: store.usage() == before)


def test_what_a_crash_left_after_the_end_of_a_transaction_goes_at_the_start(bench):
    bench.deploy(1)
    store = bench.context.store
    before = store.usage()
    (store.objects / "00").mkdir(exist_ok=True)
    (store.objects / "00" / f"{'0' * 64}.644").write_bytes(b"nobody keeps it")
    assert store.usage() != before
    bench.restart()
    bench.until(lambda: bench.context.store.usage() == before)


def test_a_transaction_goes_on_once_the_journal_can_be_written_again(bench):
    bench.deploy(1)
    bench.add_release(2, update=Update(bake=1000, checks=(GOOD,), drain=100))
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    database = bench.context.database
    database._begin = Often(database._begin, 6)
    bench.until(lambda: database._begin.times == 0)
    bench.settle()
    committed = bench.outcome(nonce) is Outcome.COMMITTED
    assert bench.counters() == [2 if committed else 1]


def test_bad_news_that_cannot_be_journalled_ends_nobody(bench, caplog):
    bench.deploy(1)
    database = bench.context.database
    database._begin = Often(database._begin, 3)
    (one,) = bench.serving()
    bench.executor.supervisor._say_trouble(one.id, Failed("cannot do it"))
    assert "cannot look after" in caplog.text
    bench.until(lambda: database._begin.times == 0 or bench.executor.supervisor._say_trouble(one.id, Failed("x")))
    assert all(thread.is_alive() for thread in bench.executor.supervisor._threads)


def test_a_full_disk_is_said_in_words(bench, monkeypatch):
    bench.deploy(1)
    bench.add_release(2)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bench.context.store, "expect", full)
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.FAILED
    assert bench.receipts[-1].detail == (
        "cannot prepare release 2 of web: No space left on device (free some disk, then deploy again)"
    )
