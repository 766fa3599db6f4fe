"""In a real chroot: the kernel's refusal before, none after, and the same view."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nebh

SOURCE = Path(nebh.__file__).resolve().parents[1]

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nebh.host import namespaces, rooting
os.mkdir(sys.argv[2] + "/root")
namespaces.private_mounts()
namespaces.mount("/", Path(sys.argv[2] + "/root"), flags=namespaces.MS_BIND | namespaces.MS_REC)
os.chroot(sys.argv[2] + "/root")
os.chdir("/usr")
print(rooting.is_chrooted())
rooting.settle_root()
print(rooting.is_chrooted(), os.getcwd(), os.path.exists("/proc/self/status"))
namespaces.private_mounts()
"""


@pytest.mark.root
def test_a_chroot_is_left_without_losing_the_view(short_folder: Path) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(SOURCE), str(short_folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True", "False /usr True"]
    os.rmdir(short_folder / "root")
