"""One guest for all tests here, with Nebh installed the README's way and a service on it."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.testing.guest import QEMU, Guest, choose_acceleration, find_image
from nebh.testing.guest_cloud import GuestCloud

HOUSE = Path(__file__).parents[2]
CACHE = HOUSE / "build" / "guest"


@pytest.fixture(scope="module")
def machine() -> Iterator[GuestCloud]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a disk image of Debian packages")
    missing = [name for name in (QEMU, "mmdebstrap", "mke2fs", "ssh") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (packaging/packages.sh guest test)")
    image = find_image(CACHE, house=HOUSE)
    acceleration, why = choose_acceleration(image)
    sys.stderr.write(f"\nthe guest runs with -accel {acceleration}: {why}\n")
    folder = Path("/var/tmp") / f"nt-{secrets.token_hex(3)}"
    try:
        with Guest(folder, image=image, acceleration=acceleration) as guest:
            yield GuestCloud(guest, house=HOUSE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


BROKEN: list[str] = []


@pytest.fixture(autouse=True)
def story(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests tell one story: each needs the one before. How long each took; what the guest said when one failed."""
    if BROKEN:
        pytest.skip(f"the story broke off in {BROKEN[0]}")
    failed, begin = request.session.testsfailed, time.monotonic()
    yield
    sys.stderr.write(f"\n{request.node.name}: {time.monotonic() - begin:.0f} s\n")
    if request.session.testsfailed > failed:
        BROKEN.append(request.node.name)
        found = request.getfixturevalue("machine")
        if isinstance(found, GuestCloud):
            sys.stderr.write(found.say_logs())
