"""Who is at its bounds is named, once in a while, with the field that would help."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from nebh.executor.strain import QUIET, STEADY, StrainKeeper, complaints
from nebh.host.clock import SystemClock
from nebh.model.instance import Strain

CALM = Strain(processes=3, process_limit=256, descriptors=9, sockets=4)


@pytest.mark.parametrize(
    ("change", "kinds", "field"),
    [
        ({}, [], ""),
        ({"processes": 256}, ["instance.process-flood"], "limits.pids"),
        ({"refused": 1}, ["instance.process-flood"], "limits.pids"),
        ({"killed": 2}, ["instance.memory-flood"], "limits.memory"),
        ({"full": ("/tmp",)}, ["instance.tmp-full"], "limits.tmp"),
        ({"full": ("/dev/shm",)}, ["instance.shm-full"], "limits.shm"),
        ({"crowded": ("/tmp",)}, ["instance.tmp-crowded"], "limits.tmp"),
        ({"descriptors": 973, "descriptor_limit": 1024}, ["instance.descriptor-flood"], "4096"),
        ({"descriptors": 900, "descriptor_limit": 1024}, [], ""),
        ({"sockets": 2048}, ["instance.connection-flood"], "connections"),
    ],
)
def test_each_bound_has_its_event(change, kinds, field):
    found = list(complaints("web", CALM, replace(CALM, **change)))
    assert [one.kind for one in found] == kinds
    assert all(field in one.hint and "web" in one.hint for one in found)


def test_counters_that_do_not_rise_say_nothing():
    before = replace(CALM, refused=7, killed=7)
    assert list(complaints("web", before, before)) == []


class Hand(SystemClock):
    """A clock that is moved by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_it_is_said_once_in_ten_minutes_and_never_of_what_was_before(bench):
    bench.deploy(1)
    (row,) = bench.context.work.instances()
    context = copy.copy(bench.context)
    context.clock = clock = Hand()
    keeper = StrainKeeper(context)

    def said():
        return sum(line.startswith("instance.memory-flood") for line in bench.events())

    def look(killed, seconds=STEADY):
        bench.containers.strains[row.id] = replace(CALM, killed=killed)
        clock.now += seconds
        keeper.look()
        return said()

    assert look(5) == 0  # killed before this executor looked
    assert look(5) == 0
    assert look(6, seconds=STEADY / 2) == 0  # not yet time to look
    assert look(6) == 1
    assert [look(killed) for killed in (7, 8, 9)] == [1, 1, 1]
    assert look(10, seconds=QUIET) == 2
