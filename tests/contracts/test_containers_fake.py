"""The fake fails, hangs and loses its conmon on demand."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nebh.drivers.containers.base import ContainerPlan
from nebh.drivers.containers.fake import FakeContainers
from nebh.model.errors import Failed
from nebh.model.instance import Status

PLAN = ContainerPlan(
    instance="web-1-0-1", tree=Path("/t"), config=b'{"process": {"args": ["/bin/app"]}}', uid_base=1 << 30
)


def test_it_fails_once():
    fake = FakeContainers()
    fake.fail_next("create", Failed("cannot create it: disk full"))
    with pytest.raises(Failed, match="disk full"):
        fake.create(PLAN)
    assert fake.create(PLAN).status is Status.CREATED


def test_it_hangs_until_told():
    fake = FakeContainers()
    fake.create(PLAN)
    gate = fake.hang_next("start")
    thread = threading.Thread(target=fake.start, args=("web-1-0-1",))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    gate.set()
    thread.join(2)
    assert fake.observe("web-1-0-1").status is Status.RUNNING


def test_without_conmon_the_exit_code_is_lost():
    fake = FakeContainers()
    fake.create(PLAN)
    fake.start("web-1-0-1")
    fake.end_conmon("web-1-0-1")
    assert (fake.observe("web-1-0-1").status, fake.observe("web-1-0-1").conmon_alive) == (Status.RUNNING, False)
    fake.exit("web-1-0-1", 0)
    assert fake.observe("web-1-0-1").exit_code is None
