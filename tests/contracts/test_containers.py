"""What every container driver promises, asked of the fake and of the real one (which needs root, crun, conmon)."""

from __future__ import annotations

import os
import select
import shutil
import time
from dataclasses import replace

import pytest

from nebh.drivers.containers.base import ContainerPlan, PlacedFile
from nebh.drivers.containers.fake import FakeContainers
from nebh.model.errors import Failed, NotFound
from nebh.model.instance import Status
from nebh.model.secret import SecretFile
from nebh.testing.container_rig import ContainerRig, busybox


class FakeRig:
    def __init__(self, folder):
        self.driver = FakeContainers()
        self.folder = folder

    def plan(self, instance, *argv):
        config = b'{"process": {"args": [%s]}}' % ", ".join(f'"{word}"' for word in argv).encode()
        return ContainerPlan(instance=instance, tree=self.folder, config=config, uid_base=1 << 30)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def rig(request, short_folder):
    if request.param == "fake":
        yield FakeRig(short_folder)
        return
    if not (shutil.which("crun") and shutil.which("conmon")):
        pytest.skip("crun and conmon are not installed")
    try:
        busybox()
    except NotFound as error:
        pytest.skip(f"{error}: {error.hint}")
    made = ContainerRig(short_folder)
    yield made
    made.close()


SLEEPER = ("/bin/sleep", "60")


def wait_stopped(driver, instance, *, seconds=10):
    deadline = time.monotonic() + seconds
    while (found := driver.observe(instance)).status is not Status.STOPPED or found.conmon_alive:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_a_life(rig):
    driver = rig.driver
    assert driver.observe("web-7-0-1").status is Status.ABSENT
    created = driver.create(rig.plan("web-7-0-1", "/bin/sh", "-c", "echo one; echo two; sleep 60"))
    assert (created.status, created.exit_code, created.conmon_alive) == (Status.CREATED, None, True)
    assert driver.list() == ("web-7-0-1",)
    assert driver.read_logs("web-7-0-1", "", 10).lines == ()
    running = driver.start("web-7-0-1")
    assert (running.status, running.pid, running.started) == (Status.RUNNING, created.pid, created.started)
    assert driver.start("web-7-0-1").pid == created.pid
    driver.signal("web-7-0-1", "KILL")
    found = wait_stopped(driver, "web-7-0-1")
    assert (found.exit_code, found.oom, found.pid) == (137, False, created.pid)
    driver.signal("web-7-0-1", "KILL")
    driver.delete("web-7-0-1")
    driver.delete("web-7-0-1")
    assert driver.list() == ()
    assert driver.observe("web-7-0-1").status is Status.ABSENT
    driver.delete_logs("web-7-0-1")
    assert driver.read_logs("web-7-0-1", "", 10).lines == ()


def test_exit_codes_and_logs_stay_until_they_are_deleted(rig):
    driver = rig.driver
    driver.create(rig.plan("web-7-0-1", "/bin/sh", "-c", "echo one; echo two words; exit 3"))
    driver.start("web-7-0-1")
    found = wait_stopped(driver, "web-7-0-1")
    assert (found.exit_code, found.oom) == (3, False)
    assert driver.start("web-7-0-1").status is Status.STOPPED
    driver.delete("web-7-0-1")
    first = driver.read_logs("web-7-0-1", "", 1)
    rest = driver.read_logs("web-7-0-1", first.cursor, 10)
    assert [(line.stream, line.text) for line in (*first.lines, *rest.lines)] == [
        ("stdout", "one"),
        ("stdout", "two words"),
    ]
    assert driver.read_logs("web-7-0-1", rest.cursor, 10).lines == ()
    tail = driver.read_logs("web-7-0-1", driver.tail_cursor("web-7-0-1", 1), 10)
    assert [line.text for line in tail.lines] == ["two words"]


def test_create_replaces_a_leftover_and_tells_what_cannot_run(rig):
    driver = rig.driver
    first = driver.create(rig.plan("web-7-0-1", *SLEEPER))
    second = driver.create(rig.plan("web-7-0-1", *SLEEPER))
    assert (second.status, second.pid != first.pid) == (Status.CREATED, True)
    with pytest.raises(Failed, match="/missing"):
        driver.create(rig.plan("web-7-0-2", "/missing"))
    assert driver.list() == ("web-7-0-1",)
    with pytest.raises(Failed, match="never created"):
        driver.start("web-7-0-2")


def test_watching_ends_with_conmon(rig):
    driver = rig.driver
    assert driver.watch("web-7-0-1") == -1
    driver.create(rig.plan("web-7-0-1", *SLEEPER))
    driver.start("web-7-0-1")
    descriptor = driver.watch("web-7-0-1")
    try:
        assert select.select([descriptor], [], [], 0.05)[0] == []
        driver.signal("web-7-0-1", "KILL")
        assert select.select([descriptor], [], [], 5)[0] == [descriptor]
    finally:
        os.close(descriptor)
    assert driver.observe("web-7-0-1").exit_code == 137
    assert driver.watch("web-7-0-1") == -1


def test_checks_run_inside_and_end_in_time(rig):
    driver = rig.driver
    assert not driver.check("web-7-0-1", ("/bin/true",), 500).ok
    driver.create(rig.plan("web-7-0-1", *SLEEPER))
    driver.start("web-7-0-1")
    assert driver.check("web-7-0-1", ("/bin/true",), 5000).ok
    failed = driver.check("web-7-0-1", ("/bin/sh", "-c", "exit 4"), 5000)
    assert (failed.ok, "status 4" in failed.detail) == (False, True)
    late = driver.check("web-7-0-1", ("/bin/sh", "-c", "sleep 30"), 300)
    assert (late.ok, "300 ms" in late.detail) == (False, True)
    assert driver.observe("web-7-0-1").status is Status.RUNNING


def test_a_created_container_can_be_killed_and_deleted(rig):
    driver = rig.driver
    driver.create(rig.plan("web-7-0-1", *SLEEPER))
    driver.signal("web-7-0-1", "KILL")
    wait_stopped(driver, "web-7-0-1")
    driver.delete("web-7-0-1")
    assert driver.list() == ()


def test_secrets_are_files_of_the_container_and_are_replaced_in_one_step(rig):
    driver = rig.driver
    first = (SecretFile(place="0/db", value=b"first"), SecretFile(place="1/key", value=b"k\x00"))
    driver.create(replace(rig.plan("web-7-0-1", *SLEEPER), secrets=first))
    driver.start("web-7-0-1")
    assert driver.give_secrets("web-7-0-1", first) == ()
    second = (SecretFile(place="0/db", value=b"second, and longer"), first[1])
    assert driver.give_secrets("web-7-0-1", second) == ("0/db",)
    assert driver.give_secrets("web-7-0-1", second) == ()
    assert driver.observe("web-7-0-1").status is Status.RUNNING
    driver.create(rig.plan("web-7-0-2", *SLEEPER))
    for name in ("web-7-0-2", "web-7-0-3"):
        with pytest.raises(Failed, match="made without"):
            driver.give_secrets(name, second)
    driver.delete("web-7-0-1")
    with pytest.raises(Failed, match="gone"):
        driver.give_secrets("web-7-0-1", second)


def one_set(word: str) -> dict[str, PlacedFile]:
    return {f"/etc/{name}": PlacedFile(data=f"{name} {word}\n".encode(), mode=0o444, owner=0) for name in ("a", "b")}


def test_live_files_are_replaced_together_under_a_container(rig):
    driver = rig.driver
    if isinstance(rig, ContainerRig):
        for name in ("a", "b"):
            (rig.tree / "etc" / name).touch(mode=0o444)
        first = rig.plan("web-7-0-1", *SLEEPER, live=one_set("one"))
    else:
        first = replace(rig.plan("web-7-0-1", *SLEEPER), live=one_set("one"))
    driver.create(first)
    assert driver.live_paths("web-7-0-1") == ("/etc/a", "/etc/b")
    half = {**one_set("two"), "/etc/b": one_set("one")["/etc/b"]}
    assert driver.give_files("web-7-0-1", half) == ("/etc/a",), "before it runs"
    driver.start("web-7-0-1")
    assert driver.give_files("web-7-0-1", one_set("two")) == ("/etc/b",)
    assert driver.give_files("web-7-0-1", one_set("two")) == ()
    assert driver.give_files("web-7-0-1", one_set("one")) == ("/etc/a", "/etc/b")
    assert driver.observe("web-7-0-1").status is Status.RUNNING
    driver.create(rig.plan("web-7-0-2", *SLEEPER))
    assert driver.live_paths("web-7-0-2") == driver.live_paths("web-7-0-3") == ()
    for name, live in (("web-7-0-2", one_set("x")), ("web-7-0-3", one_set("x")), ("web-7-0-1", {}), ("web-7-0-2", {})):
        with pytest.raises(Failed, match=r"made with others, or it is gone"):
            driver.give_files(name, live)
    with pytest.raises(Failed, match=r"made with others"):
        driver.give_files("web-7-0-1", {"/etc/a": one_set("x")["/etc/a"]})
    driver.delete("web-7-0-1")
    with pytest.raises(Failed, match="gone"):
        driver.give_files("web-7-0-1", one_set("two"))


def test_a_frozen_container_stands_still_and_can_be_deleted(rig):
    driver = rig.driver
    driver.create(rig.plan("web-7-0-1", "/bin/sh", "-c", "while true; do echo tick; sleep 0.05; done"))
    driver.start("web-7-0-1")
    if isinstance(rig, ContainerRig):
        wait_for_lines(driver, "web-7-0-1", more_than=0)
    driver.freeze("web-7-0-1")
    if isinstance(rig, ContainerRig):
        time.sleep(0.3)
        still = driver.log_written("web-7-0-1")
        time.sleep(0.5)
        assert driver.log_written("web-7-0-1") == still
    assert driver.observe("web-7-0-1").status is Status.RUNNING
    driver.thaw("web-7-0-1")
    if isinstance(rig, ContainerRig):
        wait_for_lines(driver, "web-7-0-1", more_than=still)
    driver.freeze("web-7-0-1")
    driver.delete("web-7-0-1")
    assert driver.observe("web-7-0-1").status is Status.ABSENT
    driver.freeze("web-7-0-1")  # one that is gone is left alone


def wait_for_lines(driver, instance, *, more_than):
    deadline = time.monotonic() + 10
    while driver.log_written(instance) <= more_than:
        assert time.monotonic() < deadline
        time.sleep(0.02)
