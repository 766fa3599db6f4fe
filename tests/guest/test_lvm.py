"""Thin volumes of LVM pass the contract of volumes, by the commands of docs/data-lvm.md, with Debian's own kernel; and so
do copies on an ext4 and reflinks on an XFS with project quotas, which not every kernel has."""

from __future__ import annotations

import importlib.util
import io
import os
import secrets
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.testing.guest import QEMU, Guest, choose_acceleration, find_image

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.e2e, pytest.mark.timeout(7200)]

HOUSE = Path(__file__).parents[2]
RUNNER = (
    "pytest",
    "_pytest",
    "py",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
    *("hypothesis", "_hypothesis_globals", "_hypothesis_ftz_detector", "_hypothesis_pytestplugin"),
    "sortedcontainers",
    "attr",
)
POOL = """
modprobe dm-thin-pool
truncate -s 1500M /var/lib/lvm.image
device=$(losetup -f --show /var/lib/lvm.image)
vgcreate -qq tank $device
lvcreate -qq -L 1200M -T tank/thin
"""


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a disk image of Debian packages")
    missing = [name for name in (QEMU, "mmdebstrap", "mke2fs", "ssh") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (packaging/packages.sh guest test)")
    image = find_image(HOUSE / "build" / "guest", house=HOUSE)
    acceleration, _ = choose_acceleration(image)
    folder = Path("/var/tmp") / f"nt-{secrets.token_hex(3)}"
    try:
        with Guest(folder, image=image, acceleration=acceleration) as one:
            one.boot()
            bring_tests(one)
            yield one
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bring_tests(guest: Guest) -> None:
    """The sources, the tests, and what runs them: the guest reaches no archive."""
    guest.bring_sources(HOUSE)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name in ("tests", "pyproject.toml", "examples/storage"):
            archive.add(HOUSE / name, arcname=f"nebh/{name}")
        for name in RUNNER:
            found = importlib.util.find_spec(name)
            if found is not None and found.origin is not None:
                file = Path(found.origin)
                whole = file.parent if file.name == "__init__.py" else file
                archive.add(whole, arcname=f"runner/{whole.name}")
    guest.write("/root/tests.tar.gz", buffer.getvalue())
    guest.sh("tar -C /root --no-same-owner -xzf /root/tests.tar.gz")


def run_contract(guest: Guest, which: str, *, more: str = "") -> str:
    line = (
        f"cd /root/nebh && {more} PYTHONPATH=src:/root/runner PYTHONDONTWRITEBYTECODE=1 /opt/nebh/venv/bin/python"
        f" -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib tests/contracts/test_volumes.py tests/contracts/test_volume_space.py -k {which} 2>&1"
    )
    done = guest.sh(line, accept=(0, 1, 2, 4, 5), timeout=3000.0)
    sys.stderr.write(done.text[-3000:])
    return done.text


@pytest.mark.parametrize(
    ("which", "more"),
    [("lvm_thin", "LVM_THIN_POOL=tank/thin"), ("copying_with_quotas", ""), ("reflink_with_quotas", "")],
    ids=["lvm", "ext4", "xfs"],
)
def test_passes_the_contract(guest: Guest, which: str, more: str) -> None:
    if which == "lvm_thin":
        guest.sh(POOL)
    said = run_contract(guest, which, more=more).splitlines()[-1]
    assert " passed" in said
    assert "failed" not in said
    assert "error" not in said
    assert "skipped" not in said
