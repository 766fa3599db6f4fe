"""Containers outlive a restart of every program of Nebh, ended either way, and are adopted again."""

from __future__ import annotations

import os
import signal
import time

import pytest

from nebh.testing.cloud import PROGRAMS

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]


def who(cloud):
    return [(one["id"], one["pid"], one["started"]) for one in cloud.serving("web")]


def test_containers_outlive_every_program(cloud, services):
    services.deploy("web")
    before = who(cloud)
    assert before[0][1] > 0
    for program in PROGRAMS:
        for number in (signal.SIGKILL, signal.SIGTERM):
            old = cloud.pid_of(program)
            os.kill(old, number)
            end = time.monotonic() + 60
            while cloud.pid_of(program) == old and time.monotonic() < end:
                assert cloud.get("/", host="web.example")[0] == 200
            cloud.wait_restarted(program, old=old)
            assert cloud.get("/", host="web.example")[0] == 200, program
            cloud.wait_until_ready()
            assert who(cloud) == before, (program, number)
